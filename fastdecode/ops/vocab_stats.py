from __future__ import annotations

from typing import NamedTuple

import torch

from fastdecode.ops import _check, reference
from fastdecode.ops._dispatch import DTYPE_CODES, kernel

MAX_IDS, MAX_BANNED = 64, 8


class TokenCredit(NamedTuple):
    """What tokens have earned by being the most probable ones in earlier passes (CreditDecoding, arXiv:2510.06133), sparse: a position holds at most S tokens (S <= 64).

    Attributes:
        rows: int32 [R], which row of ids and values belongs to a row of logits, each at most once; -1: none.
        ids: int32 [N, S], tokens with credit, -1 where there is none. values: float32 [N, S]. A pass changes both: values <- beta * values,
            and the most probable token gets probability^gamma more (in the place of the least credited one where there is no room).
        rates: float32 [R, 3]: alpha, gamma and beta.
    """

    rows: torch.Tensor
    ids: torch.Tensor
    values: torch.Tensor
    rates: torch.Tensor


class VocabStats(NamedTuple):
    """What one pass over logits [R, V] yields, packed so that one copy brings it all to the host.

    Attributes:
        floats: float32 [R, 16]; columns 0 top1, 1 top2 (the two largest logits), 2 second (id of top2, exact because
            V < 2^24), 3 logsumexp, 4 entropy (natural logarithm, of softmax(logits) at temperature 1), 5 sample_logit, 6 with credit the
            logsumexp without; the others are 0.
        ints: int32 [R, 2]; columns 0 argmax, 1 sample.
        id_logits: float32 [R, K], logits of the given ids; None if no ids were given.

    With credit, sample, sample_logit, logsumexp and entropy are those of logits + alpha * log(1 + credit); argmax, top1, second and top2
    stay what they are without.

    An id is -1 where its logit is -inf. A row that holds NaN has ids -1 and NaN in the other columns. With a logit of +inf
    the log-sum-exp is +inf, the entropy NaN and the sample equals the argmax.
    """

    floats: torch.Tensor
    ints: torch.Tensor
    id_logits: torch.Tensor | None = None

    @classmethod
    def empty(cls, rows: int, ids: int = 0, device: torch.device | str = "cpu") -> "VocabStats":
        """Uninitialised results for `rows` rows and `ids` ids per row, for `vocab_stats(out=)`."""
        return cls(
            torch.empty(rows, 16, dtype=torch.float32, device=device),
            torch.empty(rows, 2, dtype=torch.int32, device=device),
            torch.empty(rows, ids, dtype=torch.float32, device=device) if ids else None,
        )

    def without_credit(self) -> "VocabStats":
        """What a pass with credit would have found without, except for the entropy."""
        floats, ints = self.floats.clone(), self.ints.clone()
        floats[:, 3], floats[:, 5], ints[:, 1] = floats[:, 6], floats[:, 0], ints[:, 0]
        return VocabStats(floats, ints, self.id_logits)

    @property
    def argmax(self) -> torch.Tensor:
        """int32 [R], lowest id among equals."""
        return self.ints[:, 0]

    @property
    def sample(self) -> torch.Tensor:
        """int32 [R], the drawn token; the argmax where nothing was drawn."""
        return self.ints[:, 1]

    @property
    def top1(self) -> torch.Tensor:
        return self.floats[:, 0]

    @property
    def top2(self) -> torch.Tensor:
        return self.floats[:, 1]

    @property
    def second(self) -> torch.Tensor:
        """int32 [R], id of the second largest logit."""
        return self.floats[:, 2].to(torch.int32)

    @property
    def logsumexp(self) -> torch.Tensor:
        return self.floats[:, 3]

    @property
    def entropy(self) -> torch.Tensor:
        return self.floats[:, 4]

    @property
    def sample_logit(self) -> torch.Tensor:
        return self.floats[:, 5]


def vocab_stats(
    logits: torch.Tensor,
    *,
    ids: torch.Tensor | None = None,
    banned: torch.Tensor | None = None,
    temperature: torch.Tensor | None = None,
    key: torch.Tensor | None = None,
    credit: TokenCredit | None = None,
    out: VocabStats | None = None,
) -> VocabStats:
    """Statistics, argmax and a sample of each row of logits, in one pass over memory.

    The sample is the Gumbel-max draw (Gumbel 1954; Maddison et al., arXiv:1411.0030) from softmax(logits / temperature):
    the token with the highest logit / temperature - log(E_v), E_v = -log(1 - u_v), where u_v is number v of the stream of
    the row's key. It depends on the row and its key alone.

    Args:
        logits: [R, V] float32, bfloat16 or float16; the last dimension is contiguous, 0 < V < 2^24.
        ids: int32 [R, K], K <= 64, padded with -1: tokens whose logits are wanted (-inf for the padding).
        banned: int32 [at most 8], tokens that count as -inf everywhere; -1 is ignored.
        temperature: float32 [R], finite; 0 makes the sample the argmax. Needs `key`.
        key: int64 [R, 4]: seed, request, position, purpose. Needs `temperature`.
        credit: is brought up to date; the sample is then the best token with it. Not together with `temperature`.
        out: results of the same sizes, from `VocabStats.empty`, to be overwritten.

    Raises:
        TypeError, ValueError: wrong dtype, shape, device or layout, only one of temperature and key, or credit with them.
    """
    if out is None or not _fits(logits, ids, banned, temperature, key, credit, out):
        _require(logits, ids, banned, temperature, key, credit, out)
    device = logits.device
    run = kernel("vocab_stats", device)
    if run is None:
        return _reference(logits, ids, banned, temperature, key, credit, out)
    rows, vocab = logits.shape
    if out is None:
        out = VocabStats.empty(rows, 0 if ids is None else ids.shape[1], device)
    run(logits.data_ptr(), rows, vocab, logits.stride(0), DTYPE_CODES[logits.dtype], *arguments(ids, banned, temperature, key, out, credit))
    return out


def arguments(ids, banned, temperature, key, out: VocabStats, credit: TokenCredit | None = None) -> tuple[int, ...]:
    """The arguments of the compiled function behind the logits."""
    floats, ints, id_logits = out
    return (
        0 if ids is None else ids.data_ptr(), 0 if ids is None else ids.shape[1],
        0 if banned is None else banned.data_ptr(), 0 if banned is None else len(banned),
        0 if temperature is None else temperature.data_ptr(), 0 if key is None else key.data_ptr(),
        floats.data_ptr(), ints.data_ptr(), 0 if ids is None or id_logits is None else id_logits.data_ptr(),
        *(NO_CREDIT if credit is None else _credit_arguments(credit)),
    )  # fmt: skip


NO_CREDIT = (0,) * 5


def _credit_arguments(credit: TokenCredit) -> tuple[int, ...]:
    rows, ids, values, rates = credit
    return rows.data_ptr(), ids.data_ptr(), values.data_ptr(), ids.shape[1], rates.data_ptr()


def _reference(logits, ids, banned, temperature, key, credit, out):
    result = VocabStats(*reference.vocab_stats(logits, ids, banned, temperature, key, credit))
    if out is None:
        return result
    for target, value in zip(out, result):
        if target is not None:
            target.copy_(value)
    return out


_checked: VocabStats | None = None  # the last `out` that passed every check: a loop passes the same one again and again


def _fits(logits, ids, banned, temperature, key, credit, out) -> bool:
    """Whether `_require` has nothing to find, on the shortest way to yes; "no" only means: look closely."""
    if out is not _checked or ids is not None or banned is not None or credit is not None or not logits.is_cpu or logits.dtype not in DTYPE_CODES:
        return False
    rows = out.floats.shape[0]
    shape = logits.shape
    if len(shape) != 2 or shape[0] != rows or not 0 < shape[1] < 1 << 24 or logits.stride(1) != 1:
        return False
    if key is None or temperature is None:
        return key is temperature
    return (
        temperature.dtype is torch.float32
        and temperature.shape == (rows,)
        and temperature.is_cpu
        and temperature.is_contiguous()
        and key.dtype is torch.int64
        and key.shape == (rows, 4)
        and key.is_cpu
        and key.is_contiguous()
    )


def _require(logits, ids, banned, temperature, key, credit, out) -> None:
    rows, vocab = _check.rows("logits", logits, tuple(DTYPE_CODES))
    if not 0 < vocab < 1 << 24:
        raise ValueError(f"logits has {vocab} columns, expected 1 to 2^24 - 1 (ids are stored exactly in float32)")
    check_rows(rows, logits.device, ids, banned, temperature, key, credit)
    if out is not None:
        _check.tensor("out.floats", out.floats, torch.float32, (rows, 16), logits.device)
        _check.tensor("out.ints", out.ints, torch.int32, (rows, 2), logits.device)
        if ids is not None and ids.shape[1] > 0:
            _check.tensor("out.id_logits", out.id_logits, torch.float32, tuple(ids.shape), logits.device)
        if out.floats.is_cpu:
            global _checked
            _checked = out


def check_rows(rows: int, device: torch.device, ids, banned, temperature, key, credit=None) -> None:
    """Checks what `vocab_stats` takes beside the logits of `rows` rows."""
    if ids is not None and _check.tensor("ids", ids, torch.int32, (rows, None), device).shape[1] > MAX_IDS:
        raise ValueError(f"ids has {ids.shape[1]} columns, at most {MAX_IDS} are supported; call vocab_stats once per {MAX_IDS} ids")
    if banned is not None and len(_check.tensor("banned", banned, torch.int32, (None,), device)) > MAX_BANNED:
        raise ValueError(f"banned has {len(banned)} ids, at most {MAX_BANNED} are supported; write -inf into logits for more")
    if (temperature is None) != (key is None):
        given, missing = ("temperature", "key") if key is None else ("key", "temperature")
        raise ValueError(f"{given} is given and {missing} is None; sampling needs both")
    if temperature is not None:
        _check.tensor("temperature", temperature, torch.float32, (rows,), device)
        _check.tensor("key", key, torch.int64, (rows, 4), device)
    if credit is not None:
        if temperature is not None:
            raise ValueError("credit is given and temperature too: credit is defined for the most probable tokens; leave one of them out")
        _check.tensor("credit.rows", credit.rows, torch.int32, (rows,), device)
        table = tuple(_check.tensor("credit.ids", credit.ids, torch.int32, (None, None), device).shape)
        _check.tensor("credit.values", credit.values, torch.float32, table, device)
        _check.tensor("credit.rates", credit.rates, torch.float32, (rows, 3), device)
        if not 1 <= table[1] <= MAX_IDS or (device.type == "cpu" and rows and int(credit.rows.max()) >= table[0]):
            raise ValueError(f"credit.ids has shape {list(table)}, expected 1 to {MAX_IDS} columns and all rows that credit.rows names")
