"""The operations that the families' formulas are written in, and the precision in which results are stored."""
