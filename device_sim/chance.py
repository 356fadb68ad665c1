"""What happens by chance, if the same seed must make the same things happen again? SplitMix64, 8 bytes of state."""

import msgspec

_MASK = 2**64 - 1


class Chance(msgspec.Struct, gc=False):
    """A stream of reproducible chance. Small enough to have one per vehicle, where random.Random needs 2.5 kB."""

    state: int

    def bits(self) -> int:
        """Draw 64 bits (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014)."""
        self.state = state = (self.state + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        return state ^ (state >> 31)

    def below(self, limit: int) -> int:
        """Draw a whole number from 0 to limit - 1."""
        return self.bits() % limit

    def between(self, low: float, high: float) -> float:
        """Draw a number from low to high."""
        return low + (high - low) * (self.bits() * 2.0**-64)

    def happens(self, share: float) -> bool:
        """Say yes in this share of cases."""
        return self.bits() < share * 2.0**64

    def octets(self, length: int) -> bytes:
        """Draw that many bytes."""
        words = -(-length // 8)
        return b"".join(self.bits().to_bytes(8, "big") for _ in range(words))[:length]
