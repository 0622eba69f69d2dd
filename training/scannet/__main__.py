"""``python -m training.scannet download|extract|covisibility|build-h5``."""

from training.scannet.commands import main

if __name__ == "__main__":
    main()
