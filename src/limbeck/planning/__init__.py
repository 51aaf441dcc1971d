"""What a run needs: memory, disk and time, and what would make it fit."""
