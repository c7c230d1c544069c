"""What every long program needs: files, checkpoints, signals, processes, progress."""
