"""What a run did, for people: pictures of reconstructions and one self-contained page."""
