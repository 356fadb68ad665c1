"""What are the points of edwards25519? Its arithmetic from the equation: slow and plain, and nobody else's opinion."""

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P

Point = tuple[int, int]


def add(a: Point, b: Point) -> Point:
    """Add on edwards25519 (RFC 8032, 5.1.4), in affine coordinates: slow and plain."""
    t = D * a[0] * b[0] * a[1] * b[1] % P
    x = (a[0] * b[1] + b[0] * a[1]) * pow(1 + t, -1, P)
    y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - t, -1, P)
    return x % P, y % P


def times(n: int, point: Point) -> Point:
    total = (0, 1)
    while n:
        if n & 1:
            total = add(total, point)
        point, n = add(point, point), n >> 1
    return total


def decode(y: int) -> Point | None:
    """The point with this y and an even x, if there is one (RFC 8032, 5.1.3)."""
    xx = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(xx, (P + 3) // 8, P)
    if (x * x - xx) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - xx) % P:
        return None
    return (x if x % 2 == 0 else P - x), y


def encode(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def base() -> Point:
    """The generator of the prime-order group (RFC 8032, 5.1)."""
    point = decode(4 * pow(5, -1, P) % P)
    assert point is not None
    return point


def torsion() -> list[Point]:
    """The eight points whose order divides the cofactor: multiples of L times a point outside the prime-order group."""
    for y in range(2, 100):
        point = decode(y)
        if point is None:
            continue
        generator = times(L, point)
        if times(4, generator) != (0, 1):
            return [times(n, generator) for n in range(8)]
    raise AssertionError("no generator of the torsion group among small y")


B = base()
TORSION = torsion()
LOW_ORDER = sorted({encode(point) for point in TORSION})


def bad_encodings() -> list[bytes]:
    """The encodings of low-order points that are not canonical: y of p or more, or a sign bit on x = 0."""
    ys = {point[1] for point in TORSION}
    wide = [y + P for y in ys if y + P < 2**255]
    signed = [point[1] for point in TORSION if point[0] == 0]
    both = [value | sign << 255 for value in wide for sign in (0, 1)] + [y | 1 << 255 for y in signed]
    return sorted(value.to_bytes(32, "little") for value in both)
