"""The sizes of a decoder, and what follows from them: parameters, FLOPs per token, bytes.

Pure arithmetic without torch, so that a plan can be priced before anything is cut.
"""

from dataclasses import dataclass, replace

from claw.words import html_table

LINEARS = "qkvogud"  # a letter for each linear of a block: q, k, v, o of the attention; gate, up, down of the feed-forward
CONTEXT = 512  # tokens of context at which FLOPs per token are stated
MEMORY_CONTEXT = 4096  # tokens, of one sequence, whose keys and values count as memory beside the weights


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a decoder: hidden d, feed-forward width m, query heads H, key-value groups G, head size h, depth, vocabulary V.

    `tied`: the head reads the embedding matrix. `gated`: the feed-forward multiplies by a gate. `biases`: which linears carry a
    bias, by their letters; `head_bias`: whether the head does. `block_norms`, `block_shifts`: norms on the hidden width per
    block that have weights, and biases; `last_norm`, `last_shift`: whether the last one has; `head_norms`: whether those on q
    and k have weights, over `all_heads_norm` together (OLMo 2) or over each. `positions`: rows of a learned table.
    `shortcuts`: extra d×d matrices on the residual path of each block, which no stock architecture has. `whole_heads`: its
    stock configuration refuses a hidden width that is no multiple of the heads (Llama, Gemma 3).
    """

    vocabulary: int
    hidden: int
    depth: int
    width: int
    heads: int
    groups: int
    head_size: int
    tied: bool
    gated: bool = True
    biases: str = ""
    head_bias: bool = False
    block_norms: int = 2
    block_shifts: int = 0
    head_norms: bool = False
    all_heads_norm: bool = False
    last_norm: bool = True
    last_shift: bool = False
    positions: int = 0
    shortcuts: int = 0
    whole_heads: bool = False

    def with_(self, **sizes) -> "Shape":
        """The same decoder with other sizes."""
        return replace(self, **sizes)

    @property
    def is_stock(self) -> bool:
        """Whether stock transformers loads a checkpoint of these sizes."""
        return not self.shortcuts and not (self.whole_heads and self.hidden % self.heads)

    @property
    def _linears(self) -> dict[str, tuple[int, int]]:
        """Outputs and inputs of each linear."""
        hidden, query, key = self.hidden, self.heads * self.head_size, self.groups * self.head_size
        attention = ((query, hidden), (key, hidden), (key, hidden), (hidden, query))
        feed_forward = ((self.width, hidden), (self.width, hidden), (hidden, self.width))
        sizes = dict(zip(LINEARS, (*attention, *feed_forward), strict=True))
        return {letter: size for letter, size in sizes.items() if letter != "g" or self.gated}

    @property
    def block_parameters(self) -> int:
        """Parameters of one block."""
        linears = sum(out * (inp + (letter in self.biases)) for letter, (out, inp) in self._linears.items())
        norms = (self.block_norms + self.block_shifts) * self.hidden
        norms += self.head_norms * self.head_size * (self.heads + self.groups if self.all_heads_norm else 2)
        return linears + norms + self.shortcuts * self.hidden**2

    @property
    def nonembedding(self) -> int:
        """Parameters without embedding, positions and head."""
        return self.depth * self.block_parameters + self.hidden * (self.last_norm + self.last_shift)

    @property
    def parameters(self) -> int:
        """All parameters; a tied matrix counts once."""
        tables = (1 if self.tied else 2) * self.vocabulary + self.positions
        return self.nonembedding + tables * self.hidden + self.head_bias * self.vocabulary

    def flops_per_token(self, context: int = CONTEXT) -> int:
        """Forward FLOPs per token: two per multiplied weight, head included, and causal attention over `context` tokens."""
        block = sum(out * inp for out, inp in self._linears.values()) + self.shortcuts * self.hidden**2
        weights = self.depth * block + self.vocabulary * self.hidden
        attention = self.depth * 2 * self.heads * self.head_size * context // 2
        return 2 * (weights + attention)

    def bytes_per_token(self, context: int = CONTEXT, batch: int = 1, element: int = 2) -> float:
        """Bytes read per generated token: all weights once per batch, one embedding row, and the key-value cache."""
        embedding_only = 0 if self.tied else self.vocabulary * self.hidden
        return element * ((self.parameters - embedding_only) / batch + self.cached(context))

    def cached(self, context: int, batch: int = 1) -> int:
        """Numbers in the keys and values of `batch` sequences of `context` tokens."""
        return 2 * self.depth * self.groups * self.head_size * context * batch

    def memory(self, context: int = MEMORY_CONTEXT, batch: int = 1) -> int:
        """Numbers held while generating, all of one type: the weights, and the keys and values of all sequences.

        Sliding windows, which keep fewer, are not counted, nor are activations.
        """
        return self.parameters + self.cached(context, batch)

    def _repr_html_(self) -> str:
        names = "layers, hidden width d, feed-forward width m, query heads H, key-value groups G, head size h, vocabulary V"
        sizes = (self.depth, self.hidden, self.width, self.heads, self.groups, self.head_size, self.vocabulary)
        rows = dict(zip(names.split(", "), sizes, strict=True)) | {
            "head tied to embedding": "yes" if self.tied else "no",
            "parameters": f"{self.parameters:,}",
            "without embedding and head": f"{self.nonembedding:,}",
            f"FLOPs per token at {CONTEXT} tokens of context": f"{self.flops_per_token():,}",
        }
        return html_table(rows.items())
