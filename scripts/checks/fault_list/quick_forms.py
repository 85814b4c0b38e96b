"""Where the suite holds each row of the list: tests that run at every commit."""

QUICK = {
    "R1": ["faults/test_kill.py::test_a_run_killed_twice_logs_the_bits_of_an_undisturbed_one"],
    "R2": ["engine/test_checkpoint.py::test_a_run_killed_at_a_failpoint_goes_on_from_it"],
    "R3": [
        "engine/test_signals.py::test_a_signal_saves_ends_with_75_and_loses_no_step",
        "engine/test_signals.py::test_the_second_signal_ends_at_once_and_leaves_a_run_that_goes_on",
    ],
    "R4": ["engine/test_checkpoint.py::test_each_of_100_flipped_bytes_is_found_and_the_one_before_is_taken"],
    "R5": ["engine/test_checkpoint.py::test_a_disk_that_fails_while_saving_is_warned_of_and_training_goes_on"],
    "R6": ["faults/test_worker.py::test_a_run_whose_workers_are_killed_and_hang_logs_the_same_losses"],
    "R7": ["scripts/test_fault_list.py::test_with_little_shared_memory_a_run_says_so_or_does_without"],
    "R8": [
        "engine/test_failure.py::test_a_non_finite_input_stops_the_run_leaves_the_weights_and_can_be_replayed",
        "engine/test_failure.py::test_one_gradient_that_is_not_finite_stops_the_run_though_the_loss_is",
        "engine/test_distributed.py::test_a_sample_that_is_not_finite_on_one_rank_stops_both_at_the_same_step",
    ],
    "R9": ["engine/test_distributed.py::test_a_killed_rank_ends_the_other_with_a_message_and_the_run_goes_on_with_one"],
    "R10": ["engine/test_resume.py::test_a_changed_setting_is_refused_by_name_and_nothing_is_touched"],
    "R11": ["data/video/test_decoder.py::test_descriptors_and_children_do_not_grow_with_files"],
    "R12": ["golden/test_golden.py"],
    "D1": ["data/video/test_reader_damage.py"],
    "D2": [
        "data/loading/test_sandbox.py::test_each_way_to_fail_is_a_verdict_in_time_and_the_next_call_works",
        "data/video/test_decoder.py::test_a_child_that_fails_costs_its_file_and_the_next_file_gets_another",
    ],
    "D3": ["data/volume/test_faults.py::test_each_kind_of_bad_file_is_named"],
    "D4": ["data/volume/test_faults.py::test_a_bomb_of_61_bytes_is_refused_at_once_and_without_memory"],
    "D5": ["data/image/test_reader_bad_files.py", "scripts/test_fault_list.py::test_odd_pictures_are_right_or_named"],
    "D6": [
        "data/sources/test_cache.py::test_a_damaged_entry_is_noticed_and_built_again",
        "data/sources/test_cache.py::test_two_writers_at_once_leave_whole_entries_and_nothing_else",
    ],
    "D7": [
        "faults/test_bad_input.py::test_one_bad_file_of_41_stops_the_run_with_its_name_or_is_listed_where_more_are_allowed"
    ],
    "S1": ["faults/test_payloads.py::test_a_pickle_in_the_place_of_any_file_of_a_checkpoint_is_not_executed"],
    "S2": ["test_config_text.py::test_any_text_at_all_is_a_config_or_a_config_error_of_one_line"],
    "S3": ["faults/test_bad_input.py::test_pipes_and_devices_in_a_folder_block_nothing"],
    "S4": [
        "faults/test_payloads.py::test_a_broken_plug_in_is_one_line_for_the_run_that_names_it_and_nothing_for_others"
    ],
}
"""By row: files and functions below tests/."""
