// The work of vocab_stats on one part of one row, written once for the vector interface of the simd_*.h header that was
// included before. FD_SIMD_NAMESPACE names the instruction set. A block stays in the first-level cache: it is read from
// memory by the search for its maximum and from the cache by everything else.

#include "ops/cpu/gumbel.h"
#include "ops/cpu/vocab_stats.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

static const int64_t kBlock = 2048, kPad = 64;  // blocks are padded with -inf to a multiple of kPad

// The block as floats: in place if it is complete and unchanged, else converted, with bans applied and padded, in `stage`.
static const float* load_block(const VocabStatsArgs& a, int64_t row, int64_t begin, int64_t n, int64_t padded, float* stage) {
  bool banned = false;
  for (int64_t i = 0; i < a.banned_count; ++i) banned |= a.banned[i] >= begin && a.banned[i] < begin + n;
  const int64_t offset = row * a.stride + begin;
  if (a.dtype == kFloat32 && n == padded && !banned) return static_cast<const float*>(a.logits) + offset;
  const int64_t whole = n - n % kLanes;
  if (a.dtype == kFloat32) {
    const float* p = static_cast<const float*>(a.logits) + offset;
    for (int64_t i = 0; i < whole; i += kLanes) store(stage + i, load(p + i));
  } else {
    const uint16_t* p = static_cast<const uint16_t*>(a.logits) + offset;
    if (a.dtype == kBFloat16)
      for (int64_t i = 0; i < whole; i += kLanes) store(stage + i, load_bf16(p + i));
    else
      for (int64_t i = 0; i < whole; i += kLanes) store(stage + i, load_f16(p + i));
  }
  for (int64_t i = whole; i < n; ++i) stage[i] = element(a.logits, a.dtype, offset + i);
  for (int64_t i = n; i < padded; ++i) stage[i] = -__builtin_inff();
  for (int64_t i = 0; i < a.banned_count; ++i)
    if (a.banned[i] >= begin && a.banned[i] < begin + n) stage[a.banned[i] - begin] = -__builtin_inff();
  return stage;
}

// Largest of x[0, n), n a multiple of 4 kLanes; sets *nan if any is NaN.
static float block_max(const float* x, int64_t n, bool* nan) {
  F m0 = set1(-__builtin_inff()), m1 = m0, m2 = m0, m3 = m0;
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; i += 4 * kLanes) {
    const F a = load(x + i), b = load(x + i + kLanes), c = load(x + i + 2 * kLanes), d = load(x + i + 3 * kLanes);
    bad |= unordered(a, b) | unordered(c, d);
    m0 = max(m0, a);
    m1 = max(m1, b);
    m2 = max(m2, c);
    m3 = max(m3, d);
  }
  *nan = bad != 0;
  return reduce_max(max(max(m0, m1), max(m2, m3)));
}

// Only called when the block holds something above top2, which happens about log(V / kBlock) times a row.
static void update_top(const float* x, int64_t n, int64_t begin, VocabPart* p) {
  for (int64_t i = 0; i < n; i += kLanes) {
    for (uint32_t bits = gt(load(x + i), set1(p->top2)); bits; bits &= bits - 1) {
      const int64_t j = i + __builtin_ctz(bits);
      if (x[j] > p->top1) {
        p->top2 = p->top1, p->id2 = p->id1;
        p->top1 = x[j], p->id1 = int32_t(begin + j);
      } else if (x[j] > p->top2) {
        p->top2 = x[j], p->id2 = int32_t(begin + j);
      }
    }
  }
}

// Adds exp(x - max) and (x - max) exp(x - max); terms below the clamp are exactly 0. A float lane sums at most 64 terms before
// it goes to the double totals, whatever the number of lanes.
static void add_sums(const float* x, int64_t n, float max_logit, VocabPart* p) {
  static const int64_t kRun = 64 * 2 * kLanes;
  const F m = set1(max_logit), lowest = set1(-100.0f);
  for (int64_t begin = 0; begin < n; begin += kRun) {
    const int64_t end = begin + kRun < n ? begin + kRun : n;
    F sum0 = set1(0), sum1 = sum0, weighted0 = sum0, weighted1 = sum0;
    for (int64_t i = begin; i < end; i += 2 * kLanes) {
      const F d0 = max(sub(load(x + i), m), lowest), d1 = max(sub(load(x + i + kLanes), m), lowest);
      const F e0 = exp(d0), e1 = exp(d1);
      sum0 = add(sum0, e0);
      sum1 = add(sum1, e1);
      weighted0 = fma(d0, e0, weighted0);
      weighted1 = fma(d1, e1, weighted1);
    }
    p->sum += reduce_add(add(sum0, sum1));
    p->weighted += reduce_add(add(weighted0, weighted1));
  }
}

// Moves the sums from one maximum to a larger one.
static void rebase_sums(float from, float to, VocabPart* p) {
  if (from == to || p->sum == 0) return;
  const double shift = double(from) - double(to), scale = ::exp(shift);
  p->weighted = scale * (p->weighted + shift * p->sum);
  p->sum *= scale;
}

static void draw(const Stream& stream, double temperature, const float* x, int64_t n, float largest, int64_t begin, VocabPart* p) {
  int64_t limit = gumbel_limit(largest, temperature, p->score);
  uint32_t words[4 * kLanes];
  for (int64_t i = 0; i < n && limit >= 0; i += 4 * kLanes) {
    uint64_t bits = plane0_at_most(stream, uint32_t((begin + i) >> 2), uint32_t(limit), words);
    for (; bits; bits &= bits - 1) {
      const int j = __builtin_ctzll(bits);
      const float logit = x[i + j];
      if (logit == -__builtin_inff() || !gumbel_may_reach(logit, temperature, words[j], p->score)) continue;
      const uint32_t token = uint32_t(begin + i + j);
      const double score = gumbel_score(logit, temperature, uniform_from_bits(words[j], stream_bits(stream, token, 1)));
      if (!(score > p->score)) continue;  // tokens come in ascending order: the first of equals stays
      p->score = score;
      p->sample = int32_t(token);
      limit = gumbel_limit(largest, temperature, score);
    }
  }
}

void vocab_stats_part(const VocabStatsArgs& a, int64_t row, int64_t begin, int64_t end, VocabPart* part) {
  alignas(64) float stage[kBlock];
  VocabPart p = *part;
  const double temperature = a.temperature ? double(a.temperature[row]) : 0;
  const bool drawing = a.key && temperature > 0;
  Stream stream = {0, 0, 0, 0};
  if (drawing) stream = make_stream(a.key + 4 * row);
  for (int64_t b = begin; b < end && !p.nan; b += kBlock) {
    const int64_t n = end - b < kBlock ? end - b : kBlock, padded = (n + kPad - 1) / kPad * kPad;
    const float* x = load_block(a, row, b, n, padded, stage);
    const float largest = block_max(x, padded, &p.nan), before = p.top1;
    if (p.nan || largest == -__builtin_inff()) continue;
    if (largest > p.top2) update_top(x, padded, b, &p);
    if (!a.floats || p.top1 == __builtin_inff()) continue;  // sums and sample are settled by the first +inf; a NaN may still follow
    rebase_sums(before, p.top1, &p);
    if (largest - p.top1 > -100.0f) add_sums(x, padded, p.top1, &p);
    if (drawing) draw(stream, temperature, x, padded, largest, b, &p);
  }
  *part = p;
}

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
