"""What things are and how they change: pure values and functions, no I/O, no clock."""
