"""What tools/check_dataset.py draws, writes and looks for in pictures."""
