"""What a compression did, in numbers: the ratio asked for beside what was truly removed."""

from dataclasses import asdict, dataclass

from claw.models.shape import Shape


@dataclass(frozen=True)
class CompressionReport:
    """Result of one compression. Ratios are fractions removed; tied weights count once."""

    method: str
    ratio: float  # asked for, on the axis `ratio_of`
    ratio_of: str
    ratio_own: float  # reached on the method's own axis, after rounding
    ratio_params: float  # of all parameters
    ratio_nonembedding: float  # of the parameters without embedding and head
    ratio_flops: float  # of forward FLOPs per token
    dense: Shape
    small: Shape
    seed: int
    seconds: float
    peak_memory: int  # bytes of resident memory at the highest point of the process so far
    kept: tuple[tuple[int, ...], ...] = ()  # indices kept per layer on the method's axis, for pictures
    details: tuple[tuple[str, object], ...] = ()  # what the method itself has to say

    @classmethod
    def of(cls, dense: Shape, small: Shape, **rest) -> "CompressionReport":
        """Report with the true ratios worked out from two shapes."""
        return cls(
            ratio_params=1 - small.parameters / dense.parameters,
            ratio_nonembedding=1 - small.nonembedding / dense.nonembedding,
            ratio_flops=1 - small.flops_per_token() / dense.flops_per_token(),
            dense=dense,
            small=small,
            **rest,
        )

    def to_dict(self) -> dict:
        """Plain values for a record."""
        plain = asdict(self)
        plain["details"] = dict(self.details)
        return plain

    def _repr_html_(self) -> str:
        rows = (
            ("parameters", f"{self.dense.parameters:,}", f"{self.small.parameters:,}", self.ratio_params),
            ("without embedding", f"{self.dense.nonembedding:,}", f"{self.small.nonembedding:,}", self.ratio_nonembedding),
            ("FLOPs per token", f"{self.dense.flops_per_token():,}", f"{self.small.flops_per_token():,}", self.ratio_flops),
            ("FFN width", self.dense.width, self.small.width, 1 - self.small.width / self.dense.width),
            ("KV groups", self.dense.groups, self.small.groups, 1 - self.small.groups / self.dense.groups),
            ("hidden width", self.dense.hidden, self.small.hidden, 1 - self.small.hidden / self.dense.hidden),
            ("layers", self.dense.depth, self.small.depth, 1 - self.small.depth / self.dense.depth),
        )
        body = "".join(f"<tr><th>{n}</th><td>{d}</td><td>{s}</td><td>{r:.1%}</td></tr>" for n, d, s, r in rows)
        return (
            f"<b>{self.method}</b>, asked to remove {self.ratio:.0%} of {self.ratio_of} in {self.seconds:.1f} s"
            f"<table><tr><th></th><th>dense</th><th>compressed</th><th>removed</th></tr>{body}</table>"
        )
