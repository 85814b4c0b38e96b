"""`python -m mae_ext`, and `torchrun -m mae_ext` for many ranks."""

from mae_ext.cli import main

if __name__ == "__main__":
    main()
