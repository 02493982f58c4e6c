// One task of tree_attention, written once for the vector interface of the simd_*.h header that was included before.
//
// A query row's result is a function of its own visible keys in position order, bit for bit. Online softmax proceeds by blocks
// of 64 positions. Scores are dot products of one row and one key (tree_attention_dot.h). Keys that a row does not see have
// probability exactly 0, and adding 0 or rescaling by exp(0) = 1 changes nothing, so siblings between two ancestors, and blocks
// that only others see, leave no trace. Values are accumulated by single FMAs in key order, never in pairs, for the same reason.

#include "ops/cpu/tree_attention.h"
#include "ops/cpu/tree_attention_dot.h"
#include "ops/cpu/tree_attention_values.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

// Everything about the task that its steps share. The leading dimension of `scores` is kAttentionRows.
struct AttentionState {
  const TreeAttentionArgs& a;
  const AttentionTask& task;
  int64_t group, slot_row, prefix, padded_dim;
  const int32_t* depth;
  float *queries, *sums, *largest, *weights, *scales;  // packed rows; [rows, padded_dim], [rows], [rows], [rows]
  float *keys, *values;                                // [kAttentionBlock, padded_dim]
  float* scores;                                       // [keys of a block, kAttentionRows]
  uint64_t* visible;                                   // [keys of a block] one bit per row
  int32_t* slots;                                      // [keys of a block]
};

static const char* slot_data(const void* base, const int64_t* stride, const AttentionState& s, int32_t slot) {
  return static_cast<const char*>(base) + (s.slot_row * stride[0] + s.task.kv_head * stride[1] + slot * stride[2]) * bytes_of(s.a.dtype);
}

static int64_t position(const AttentionState& s, int32_t slot) { return slot < s.prefix ? slot : s.prefix + s.depth[slot - s.prefix]; }

// The slots whose positions lie in the block, prefix first, then nodes up to `last_node`: position order for every row.
static int64_t list_block(const AttentionState& s, int64_t block, int64_t last_node) {
  const int64_t begin = block * kAttentionBlock, end = begin + kAttentionBlock;
  int64_t n = 0;
  for (int64_t slot = begin; slot < end && slot < s.prefix; ++slot) s.slots[n++] = int32_t(slot);
  if (end <= s.prefix) return n;
  for (int64_t i = 0; i <= last_node; ++i) {
    const int64_t p = s.prefix + s.depth[i];
    if (p >= begin && p < end) s.slots[n++] = int32_t(s.prefix + i);
  }
  return n;
}

// Which of the rows [first, first + count) of the task see each listed key.
static void mark_visible(const AttentionState& s, int64_t n, int64_t first, int64_t count) {
  for (int64_t k = 0; k < n; ++k) s.visible[k] = 0;
  for (int64_t r = 0; r < count;) {
    const int64_t row = s.task.first_row + first + r, node = row / s.group;
    const int64_t run = s.group - row % s.group < count - r ? s.group - row % s.group : count - r;  // rows of the same node
    const uint64_t bits = (run == 64 ? ~0ull : (1ull << run) - 1) << r;
    const int64_t* words = s.a.ancestors + (s.task.b * s.a.nodes + node) * s.a.words;
    const int64_t oldest = s.a.window ? s.prefix + s.depth[node] - s.a.window + 1 : 0;
    for (int64_t k = 0; k < n; ++k) {
      const int64_t i = s.slots[k] - s.prefix;
      if ((i < 0 || words[i >> 6] >> (i & 63) & 1) && (!s.a.window || position(s, s.slots[k]) >= oldest)) s.visible[k] |= bits;
    }
    r += run;
  }
}

static void hide(const AttentionState& s, int64_t n, int64_t count) {
  const F nothing = set1(-__builtin_inff());
  for (int64_t k = 0; k < n; ++k)
    for (int64_t r = 0; r < count; r += kLanes) {
      float* score = s.scores + k * kAttentionRows + r;
      store(score, select(uint32_t(s.visible[k] >> r) & uint32_t((1ull << kLanes) - 1), load(score), nothing));
    }
}

// Scores -> exp(score - running maximum); updates the rows' maxima and weights, leaves in `scales` what older sums shrink by.
static void soften(const AttentionState& s, int64_t n, int64_t first, int64_t count) {
  for (int64_t r = 0; r < count; r += kLanes) {
    float* column = s.scores + r;
    const F before = load(s.largest + first + r);
    F most = before;
    for (int64_t k = 0; k < n; ++k) most = max(most, load(column + k * kAttentionRows));
    const F base = select(gt(most, set1(-__builtin_inff())), most, set1(0));  // nothing visible yet: every exp below is exp(-inf)
    const F scale = exp(sub(before, base));
    F weight = mul(load(s.weights + first + r), scale);
    for (int64_t k = 0; k < n; ++k) {
      const F e = exp(sub(load(column + k * kAttentionRows), base));
      weight = add(weight, e);
      store(column + k * kAttentionRows, e);
    }
    store(s.largest + first + r, most);
    store(s.weights + first + r, weight);
    store(s.scales + first + r, scale);
  }
}

// Pointers to the keys of a chunk, as the dot products read them.
static void point_keys(const AttentionState& s, int64_t begin, int64_t n, const void** rows) {
  for (int64_t k = 0; k < n; ++k) {
    const char* p = slot_data(s.a.key, s.a.key_stride, s, s.slots[begin + k]);
    rows[k] = dot_reads_in_place(s.a.dtype) ? static_cast<const void*>(p) : widen(reinterpret_cast<const uint16_t*>(p), s.a.dim, s.a.dim, s.keys + k * s.padded_dim);
  }
  for (int64_t k = n; k % kDotKeys; ++k) rows[k] = rows[n - 1];  // the dot products work on kDotKeys keys at a time
}

// Pointers to the values of a chunk as padded_dim floats.
static void point_values(const AttentionState& s, int64_t begin, int64_t n, const float** rows) {
  for (int64_t k = 0; k < n; ++k) {
    const char* p = slot_data(s.a.value, s.a.value_stride, s, s.slots[begin + k]);
    float* stage = s.values + k * s.padded_dim;
    if (s.a.dtype == kBFloat16)
      rows[k] = widen(reinterpret_cast<const uint16_t*>(p), s.a.dim, s.padded_dim, stage);
    else if (s.padded_dim == s.a.dim)
      rows[k] = reinterpret_cast<const float*>(p);
    else
      rows[k] = pad(reinterpret_cast<const float*>(p), s.a.dim, s.padded_dim, stage);
  }
}

static void attend_block(const AttentionState& s, int64_t n, bool masked) {
  const void* keys[kAttentionBlock];
  const float* values[kAttentionBlock];
  const bool once = n <= kAttentionBlock;  // else the chunks take turns in the staging memory
  if (once) point_keys(s, 0, n, keys), point_values(s, 0, n, values);
  for (int64_t first = 0; first < s.task.row_count; first += kAttentionRows) {
    const int64_t left = s.task.row_count - first, count = left < kAttentionRows ? left : kAttentionRows;
    const float* queries = s.queries + first * s.a.dim;
    for (int64_t c = 0; c < n; c += kAttentionBlock) {
      const int64_t m = n - c < kAttentionBlock ? n - c : kAttentionBlock;
      if (!once) point_keys(s, c, m, keys);
      dots(queries, s.a.dtype, s.a.dim, count, keys, m, s.a.scaling, s.scores + c * kAttentionRows);
    }
    if (masked) mark_visible(s, n, first, count), hide(s, n, count);
    soften(s, n, first, count);
    for (int64_t c = 0; c < n; c += kAttentionBlock) {
      const int64_t m = n - c < kAttentionBlock ? n - c : kAttentionBlock;
      if (!once) point_values(s, c, m, values);
      add_values(s.scores + c * kAttentionRows, values, m, c == 0 ? s.scales + first : nullptr, count, s.padded_dim, s.sums + first * s.padded_dim);
    }
  }
}

static void write_rows(const AttentionState& s) {
  for (int64_t r = 0; r < s.task.row_count; ++r) {
    const int64_t row = s.task.first_row + r, node = row / s.group, head = s.task.kv_head * s.group + row % s.group;
    const int64_t offset = ((s.task.b * s.a.nodes + node) * s.a.heads + head) * s.a.dim;
    const float* sum = s.sums + r * s.padded_dim;
    for (int64_t d = 0; d < s.a.dim; ++d) {
      const float value = sum[d] / s.weights[r];
      if (s.a.dtype == kFloat32)
        static_cast<float*>(s.a.out)[offset + d] = value;
      else
        static_cast<uint16_t*>(s.a.out)[offset + d] = bf16_of_float(value);
    }
  }
}

static AttentionState make_state(const TreeAttentionArgs& a, const AttentionTask& task, float* scratch) {
  const int64_t padded = (a.dim + 15) / 16 * 16, block_keys = kAttentionBlock + a.nodes;
  float* queries = scratch;
  float* sums = queries + kAttentionTask * a.dim;
  float* largest = sums + kAttentionTask * padded;
  float* keys = largest + 3 * kAttentionTask;
  float* scores = keys + 2 * kAttentionBlock * padded;
  uint64_t* visible = reinterpret_cast<uint64_t*>(scores + (block_keys + kDotKeys) * kAttentionRows);
  return {a, task, a.heads / a.kv_heads, a.rows ? a.rows[task.b] : task.b, a.lengths[task.b], padded, a.depth + task.b * a.nodes,
          queries, sums, largest, largest + kAttentionTask, largest + 2 * kAttentionTask, keys, keys + kAttentionBlock * padded,
          scores, visible, reinterpret_cast<int32_t*>(visible + block_keys)};
}

void tree_attention_task(const TreeAttentionArgs& a, const AttentionTask& task, float* scratch) {
  const AttentionState s = make_state(a, task, scratch);
  for (int64_t i = 0; i < kAttentionTask * s.padded_dim; ++i) s.sums[i] = 0;
  for (int64_t i = 0; i < kAttentionTask; ++i) s.largest[i] = -__builtin_inff(), s.weights[i] = 0;
  const char* query = static_cast<const char*>(a.query) + (task.b * a.query_stride[0] + task.kv_head * s.group * a.query_stride[1]) * bytes_of(a.dtype);
  pack_queries(query, a.dtype, a.query_stride, s.group, task.first_row, task.row_count, a.dim, s.queries);

  const int64_t first_node = task.first_row / s.group, last_node = (task.first_row + task.row_count - 1) / s.group;
  int64_t shallowest = s.depth[first_node], deepest = shallowest;
  for (int64_t i = first_node; i <= last_node; ++i) {
    shallowest = s.depth[i] < shallowest ? s.depth[i] : shallowest;
    deepest = s.depth[i] > deepest ? s.depth[i] : deepest;
  }
  const int64_t oldest = s.prefix + shallowest - a.window + 1;  // first position that any row sees, and
  const int64_t newest_oldest = s.prefix + deepest - a.window + 1;  // first position that all rows see, with a window
  for (int64_t block = a.window && oldest > 0 ? oldest / kAttentionBlock : 0; block <= (s.prefix + deepest) / kAttentionBlock; ++block) {
    const int64_t n = list_block(s, block, last_node), begin = block * kAttentionBlock;
    const bool masked = begin + kAttentionBlock > s.prefix || (a.window && begin < newest_oldest);
    if (n > 0) attend_block(s, n, masked);
  }
  write_rows(s);
}

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
