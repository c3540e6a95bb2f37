"""What calibration remembers of a tensor, one file an observer; each a commutative monoid."""
