// One forward pass of a transformer (declared in transformer.h).
#include <algorithm>
#include <cmath>

#include "fastdecode/exp.cuh"
#include "runtime/attention.h"
#include "runtime/parallel.h"
#include "runtime/team.h"
#include "runtime/transformer.h"

namespace fastdecode {

// A thread of the team, and what it will read of the weights.
struct Member {
  Team& team;
  const int index;
  WeightStream& stream;

  // The members share n items of a phase, all of them; work(begin, end).
  template <class F>
  void ranges(int64_t n, const F& work) {
    while (const Items items = team.take(index, n)) work(items.begin, items.end);
    team.sync(index);
  }

  // The same item by item.
  template <class F>
  void each(int64_t n, const F& work) {
    ranges(n, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) work(i);
    });
  }
};

// One forward pass: phases of independent items between barriers, the same for every thread of the team.
class Step {
 public:
  Step(Transformer& model, KvCache& cache, const TokenSet& set, const StepPart& part)
      : t_(model), c_(model.config), cache_(cache), set_(set), part_(part), kernels_(step_kernels(c_.element)), cache_kernels_(step_kernels(model.cache_element())), m_(set.size()), cache_bytes_(bytes_of(model.cache_element())),
        bytes_(c_.element == Element::i8), ld_(round_up(c_.width, kDepth)), ld_heads_(elements(round_up(c_.heads * c_.dim, kDepth))), ld_inner_(elements(round_up(c_.inner, kDepth))), ld_qkv_((c_.heads + 2 * c_.kv_heads) * c_.dim), ld_wide_(std::max(t_.fusion.depth(), round_up(2 * c_.width, kDepth))), depth_(round_up(c_.dim, kKeyDepth)), once_(model.weight_bytes() > kCached) {
    plan_layers();
    narrows_ = has_head() && set_.wanted.size() < size_t(m_) && part_.end > part_.begin && (part_.taps.empty() || part_.taps.back() < part_.end);
    if (narrows_) plan_last();
    reserve();
  }

  void run() {
    for (size_t b = 0; b < set_.rows.size(); ++b) cache_.reserve(set_.rows[b], set_.first_slot[b] + set_.slot_count[b]);
    run_team(*this);
  }

  void operator()(Team& team, int index) {
    Member self{team, index, space().streams[index]};
    plan_stream(self);
    self.each(m_, [&](int64_t m) { enter(m); });
    if (part_.features) fuse(self);
    for (int64_t i = part_.begin; i < part_.end; ++i) {
      const Layer& layer = t_.layers[i];
      keep(self, i);
      self.each(m_, [&](int64_t m) { enter_layer(layer, m); });
      multiply(self, layer.qkv, layer.token_norm.empty() ? input(0) : wide_input(0, layer.qkv.depth()), m_, Epilogue::store, qkv(0), ld_qkv_);
      if (i + 1 == part_.end && narrows_) narrow(self);
      self.each(c_.kv_heads * set_.size(), [&](int64_t item) { rotate_and_store(self, layer, i, item % set_.size(), item / set_.size()); });  // keys of one head share lines of the cache
      if (i + 1 == part_.end && !keeps_last()) break;  // only the keys and values were asked for
      attend_layer(self, layer, i);
      add_to_hidden(self, layer.out, attended_input(0), layer.after_attention_norm);
      self.each(m_, [&](int64_t m) { kernels_.norm(hidden(m), layer.mlp_norm.data(), c_.width, ld_, c_.epsilon, input(m)); });
      multiply(self, layer.gate_up, input(0), m_, c_.activation == Activation::silu ? Epilogue::silu : Epilogue::gelu, nullptr, 0);
      if (bytes_) self.each(m_, [&](int64_t m) { kernels_.input(space().gated.at<float>(m * ld_inner_), c_.inner, ld_inner_, space().gated_inputs.at(m * stride(ld_inner_))); });
      add_to_hidden(self, layer.down, bytes_ ? space().gated_inputs.at() : space().gated.at(), layer.after_mlp_norm);
    }
    keep(self, part_.end);
    if (has_head()) head(self, part_.outputs(set_));
  }

 private:
  Transformer::Workspace& space() { return t_.space_; }
  float* hidden(int64_t m) { return space().hidden.at<float>(m * ld_); }
  float* mixed(int64_t m) { return space().mixed.at<float>(m * ld_); }
  float* qkv(int64_t m) { return space().qkv.at<float>(m * ld_qkv_); }
  // Bytes between input rows of that depth: an odd number of lines, or rows of a power of two would share a few sets of the cache.
  int64_t stride(int64_t depth) const { return (input_bytes(c_.element, depth) / 64 | 1) * 64; }
  // Elements between rows that become input rows as they are; with int8 weights these rows are floats, and become bytes later.
  int64_t elements(int64_t depth) const { return bytes_ ? depth : stride(depth) / cache_bytes_; }
  char* input(int64_t m) { return space().inputs.at(m * stride(ld_)); }
  char* wide_input(int64_t m, int64_t depth) { return space().wide_inputs.at(m * stride(depth)); }
  char* attended_input(int64_t m) { return bytes_ ? space().attended_inputs.at(m * stride(ld_heads_)) : space().attended.at(m * ld_heads_ * cache_bytes_); }
  float* part(int64_t m, int64_t head, const AttentionPlan& plan, int64_t size) {
    const int64_t group = c_.heads / c_.kv_heads;
    return space().parts.at<float>(((head / group * m_ + m) * group + head % group) * plan.splits * size);
  }

  // Panels go in pairs, gate and up.
  static int64_t pairs(const PackedMatrix& w) { return (w.panels() + 1) / 2; }

  void multiply(Member& self, const PackedMatrix& w, const char* a, int64_t rows, Epilogue epilogue, float* out, int64_t ldo) {
    PanelGemm g{a, stride(w.depth()), w.data(), rows, w.depth(), 0, 0, epilogue, out, ldo, w.bias(), space().gated.at(), ld_inner_, &self.stream, once_};
    self.stream.begin_share();
    self.ranges(pairs(w), [&](int64_t begin, int64_t end) {
      PanelGemm part = g;
      part.panel_begin = 2 * begin;
      part.panel_end = std::min(w.panels(), 2 * end);
      kernels_.gemm(part);
    });
    self.stream.end_share();
  }

  // The member's shares of the matrices, in the order in which the pass multiplies with them.
  void plan_stream(Member& self) {
    self.stream.clear();
    const auto read = [&](const PackedMatrix& w, int64_t items, int64_t panels) {  // `panels` an item
      const Items share = self.team.share(self.index, items);
      const int64_t begin = std::min(w.panels(), share.begin * panels), end = std::min(w.panels(), share.end * panels), bytes = panel_bytes(w.element(), w.depth());
      self.stream.add(static_cast<const char*>(w.data()) + begin * bytes, (end - begin) * bytes);
    };
    const auto product = [&](const PackedMatrix& w) { read(w, pairs(w), 2); };
    if (part_.features) product(t_.fusion);
    for (int64_t i = part_.begin; i < part_.end; ++i) {
      const Layer& layer = t_.layers[i];
      product(layer.qkv);
      if (i + 1 == part_.end && !keeps_last()) break;
      for (const PackedMatrix* w : {&layer.out, &layer.gate_up, &layer.down}) product(*w);
    }
    if (!has_head()) return;
    if (part_.logits) return product(t_.head);
    read(t_.head, column_blocks(), kStatsColumns / kPanel);
  }

  bool has_head() const { return part_.head() && !set_.wanted.empty(); }
  bool keeps_last() const { return has_head() || (!part_.taps.empty() && part_.taps.back() == part_.end); }

  // The last layer ends with the tokens whose outputs are wanted: nobody asks what the others become.
  void narrow(Member& self) {
    self.each(last_.size(), [&](int64_t i) { std::copy(hidden(set_.wanted[i]), hidden(set_.wanted[i]) + ld_, mixed(i)); });
    if (self.index == 0) {
      std::swap(space().hidden, space().mixed);
      m_ = last_.size();
    }
    self.team.sync(self.index);
  }

  // Where token m of the set stands after that; -1: nowhere.
  int64_t place(int64_t m) const {
    if (m_ == set_.size()) return m;
    const auto at = std::lower_bound(set_.wanted.begin(), set_.wanted.end(), m);
    return at != set_.wanted.end() && *at == m ? at - set_.wanted.begin() : -1;
  }

  // Copies the hidden states if they are wanted.
  void keep(Member& self, int64_t layer) {
    const auto tap = std::find(part_.taps.begin(), part_.taps.end(), layer);
    if (tap == part_.taps.end()) return;
    float* out = part_.tapped + (tap - part_.taps.begin()) * m_ * c_.width;
    self.each(m_, [&](int64_t m) { std::copy(hidden(m), hidden(m) + c_.width, out + m * c_.width); });
  }

  // The head is linear: what guidance makes of logits, it makes of the states that they come from.
  void head_input(int64_t i, int64_t wanted) {
    float* x = hidden(place(set_.wanted[i]));
    if (part_.guidance == 0) return normed_input(x, t_.norm, input(i));
    float* without = hidden(place(set_.wanted[wanted + i]));
    if (!t_.norm.empty())
      for (float* state : {x, without}) kernels_.norm_f32(state, t_.norm.data(), c_.width, c_.epsilon, state);
    for (int64_t k = 0; k < c_.width; ++k) x[k] += part_.guidance * (x[k] - without[k]);
    kernels_.input(x, c_.width, ld_, input(i));
  }

  void head(Member& self, int64_t wanted) {
    self.each(wanted, [&](int64_t i) { head_input(i, wanted); });
    if (part_.logits) return multiply(self, t_.head, input(0), wanted, Epilogue::store, part_.logits, part_.ld);
    const int64_t blocks = column_blocks();
    VocabCut* cuts = space().cuts.at<VocabCut>();
    float* columns = space().columns.at<float>(self.index * kStatsRows * kStatsColumns);
    self.stream.begin_share();
    self.each(blocks, [&](int64_t block) {
      for (int64_t first = 0; first < wanted; first += kStatsRows) scan_columns(block, first, std::min(wanted, first + kStatsRows), columns, cuts, first ? nullptr : &self.stream);
    });
    self.stream.end_share();
    self.each(wanted, [&](int64_t i) { write_vocab_stats(*part_.stats, i, cuts + i * blocks, blocks, credit_logits(i)); });
  }

  // Logits of some rows and columns, into cuts of their statistics while they are in the cache.
  void scan_columns(int64_t block, int64_t first, int64_t last, float* columns, VocabCut* cuts, WeightStream* stream) {
    const PackedMatrix& w = t_.head;
    const int64_t begin = block * kStatsColumns, end = std::min(c_.outputs, begin + kStatsColumns), panel = begin / kPanel;
    const char* weights = static_cast<const char*>(w.data()) + panel * panel_bytes(w.element(), w.depth());
    kernels_.gemm({input(first), stride(w.depth()), weights, last - first, w.depth(), 0, (end - begin + kPanel - 1) / kPanel, Epilogue::store, columns, kStatsColumns, w.bias() ? w.bias() + begin : nullptr, nullptr, 0, stream, once_});
    VocabStatsArgs args = *part_.stats;
    args.stride = kStatsColumns;
    args.logits = reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(columns) - (first * kStatsColumns + begin) * sizeof(float));
    for (int64_t i = first; i < last; ++i) {
      cuts[i * column_blocks() + block] = vocab_cut(args, i, begin, end);
      write_id_logits(args, i, begin, end, credit_logits(i));
    }
  }
  float* credit_logits(int64_t i) { return space().credit_logits.at<float>(i * part_.stats->credit_slots); }
  int64_t column_blocks() const { return (c_.outputs + kStatsColumns - 1) / kStatsColumns; }

  // hidden += norm(a x w), the norm only in families that have one there.
  void add_to_hidden(Member& self, const PackedMatrix& w, const char* a, const std::vector<float>& norm) {
    if (norm.empty()) return multiply(self, w, a, m_, Epilogue::add, hidden(0), ld_);
    multiply(self, w, a, m_, Epilogue::store, mixed(0), ld_);
    self.each(m_, [&](int64_t m) { kernels_.norm_add(mixed(m), norm.data(), c_.width, c_.epsilon, hidden(m)); });
  }

  void enter(int64_t m) {
    std::fill(hidden(m), hidden(m) + ld_, 0.0f);
    if (part_.features)
      kernels_.input(part_.features + m * t_.fusion.inputs(), t_.fusion.inputs(), t_.fusion.depth(), wide_input(m, t_.fusion.depth()));
    else if (part_.hidden)
      std::copy(part_.hidden + m * c_.width, part_.hidden + (m + 1) * c_.width, hidden(m));
    else
      t_.embed(set_.token[m], hidden(m));
    for (size_t r = 0; r < t_.rotaries.size(); ++r) turn(t_.rotaries[r], m, rotary(r, m));
  }

  void fuse(Member& self) { multiply(self, t_.fusion, wide_input(0, t_.fusion.depth()), m_, Epilogue::store, hidden(0), ld_); }

  void enter_layer(const Layer& layer, int64_t m) {
    if (layer.token_norm.empty()) return normed_input(hidden(m), layer.attention_norm, input(m));
    float* pair = space().pairs.at<float>(m * 2 * c_.width);
    t_.embed(set_.token[m], pair + c_.width);
    kernels_.norm_f32(pair + c_.width, layer.token_norm.data(), c_.width, c_.epsilon, pair);
    kernels_.norm_f32(hidden(m), layer.attention_norm.data(), c_.width, c_.epsilon, pair + c_.width);
    kernels_.input(pair, 2 * c_.width, layer.qkv.depth(), wide_input(m, layer.qkv.depth()));
  }

  void normed_input(const float* x, const std::vector<float>& norm, char* out) {
    if (norm.empty()) return kernels_.input(x, c_.width, ld_, out);
    kernels_.norm(x, norm.data(), c_.width, ld_, c_.epsilon, out);
  }

  // Cosines, then sines, of one position.
  void turn(const Rotary& rotary, int64_t m, float* out) {
    const size_t half = rotary.frequencies.size();
    for (size_t i = 0; i < half; ++i) {
      const double angle = float(set_.position[m]) * rotary.frequencies[i];  // rounded to float, as transformers does
      out[i] = float(std::cos(angle)) * rotary.scale;
      out[half + i] = float(std::sin(angle)) * rotary.scale;
    }
  }
  float* rotary(size_t r, int64_t m) { return space().rotary.at<float>((r * set_.size() + m) * c_.dim); }

  void turn_head(const Layer& layer, const std::vector<float>& norm, int64_t m, float* head) {
    if (!norm.empty()) kernels_.norm_f32(head, norm.data(), c_.dim, c_.epsilon, head);
    if (layer.rotary < 0) return;
    const int64_t half = int64_t(t_.rotaries[layer.rotary].frequencies.size());
    kernels_.rotate(head, rotary(layer.rotary, m), rotary(layer.rotary, m) + half, half);
  }

  // The queries that share key/value head h, rotated and scaled, so that weights are powers of two; key and value into their slot.
  void rotate_and_store(Member& self, const Layer& layer, int64_t index, int64_t m, int64_t h) {
    const int64_t group = c_.heads / c_.kv_heads;
    float *q = qkv(m) + h * (group + 2) * c_.dim, *k = q + group * c_.dim, *v = k + c_.dim;
    const int64_t own = place(m);
    char* queries = space().queries.at((h * m_ + own) * group * depth_ * cache_bytes_);
    for (int64_t g = 0; g < group && own >= 0; ++g) {
      turn_head(layer, layer.query_norm, m, q + g * c_.dim);
      self.stream.ask_ahead(2);  // few lines at a time: a core forgets what it is asked for while it waits for others
      cache_kernels_.convert(q + g * c_.dim, c_.dim, c_.attention_scale * kLog2E, queries + g * depth_ * cache_bytes_);
    }
    turn_head(layer, layer.key_norm, m, k);
    alignas(64) char key[kMaxDim * 4], value[kMaxDim * 4];
    cache_kernels_.convert(k, c_.dim, 1, key);
    cache_kernels_.convert(v, c_.dim, 1, value);
    cache_.write(sequence_row(m), index, h, set_.slot[m], key, value);
  }

  int32_t sequence_row(int64_t m) const { return set_.rows[std::upper_bound(set_.begin.begin(), set_.begin.end(), m) - set_.begin.begin() - 1]; }

  void attend_layer(Member& self, const Layer& layer, int64_t index) {
    const bool narrowed = m_ < set_.size();
    const TokenSet& set = narrowed ? last_ : set_;
    const AttentionShape shape{c_.heads, c_.kv_heads, c_.dim, layer.window};
    const AttentionPlan& plan = narrowed ? last_plan_ : plans_[layer.window ? plan_of_window(layer.window) : 0];
    const bool finish = plan.splits == 1 && !bytes_;
    const AttentionArgs args{set, shape, plan, cache_, cache_kernels_, index, depth_, space().queries.at(), space().parts.at<float>(), finish ? space().attended.at() : nullptr, ld_heads_, self.stream};
    float* scratch = space().scratch.at<float>(self.index * scratch_);
    self.each(int64_t(plan.tasks.size()), [&](int64_t i) { attend(args, plan.tasks[i], scratch); });
    if (finish) return;
    self.each(m_, [&](int64_t m) {
      const SplitRange range = visible_splits(set, m, layer.window);
      const int64_t output = bytes_ ? 4 : cache_bytes_;
      char* out = space().attended.at(m * ld_heads_ * output);
      for (int64_t head = 0; head < c_.heads; ++head)
        kernels_.merge(part(m, head, plan, shape.part()) + range.first * shape.part(), shape.part(), range.last - range.first + 1, c_.dim, out + head * c_.dim * output);
      if (bytes_) kernels_.input(space().attended.at<float>(m * ld_heads_), c_.heads * c_.dim, ld_heads_, attended_input(m));
    });
  }

  // Plans differ by window only: plan 0 is for layers that see everything.
  void plan_layers() {
    windows_.push_back(0);
    for (const Layer& layer : t_.layers)
      if (std::find(windows_.begin(), windows_.end(), layer.window) == windows_.end()) windows_.push_back(layer.window);
    for (int64_t window : windows_) plans_.push_back(plan_attention(set_, {c_.heads, c_.kv_heads, c_.dim, window}, num_threads()));
  }
  void plan_last() {
    last_ = set_.only(set_.wanted);
    last_plan_ = plan_attention(last_, {c_.heads, c_.kv_heads, c_.dim, t_.layers[part_.end - 1].window}, num_threads());
  }
  size_t plan_of_window(int64_t window) const { return std::find(windows_.begin(), windows_.end(), window) - windows_.begin(); }

  // Padding in these buffers is zero from the start and stays so.
  void reserve() {
    Transformer::Workspace& s = space();
    int64_t parts = 0;
    for (const AttentionPlan& plan : plans_) {
      parts = std::max(parts, m_ * c_.heads * plan.splits * (c_.dim + kPanel));
      scratch_ = std::max(scratch_, round_up(plan.scratch_floats(), 64));
    }
    if (narrows_) scratch_ = std::max(scratch_, round_up(last_plan_.scratch_floats(), 64));
    if (int(s.streams.size()) < num_threads()) s.streams.resize(num_threads());
    s.hidden.reserve(m_ * ld_ * 4);
    s.mixed.reserve(m_ * ld_ * 4);
    s.inputs.reserve(m_ * stride(ld_));
    const bool wide = part_.features || std::any_of(t_.layers.begin(), t_.layers.end(), [](const Layer& layer) { return !layer.token_norm.empty(); });
    s.pairs.reserve(wide ? m_ * 2 * c_.width * 4 : 0);
    s.wide_inputs.reserve(wide ? m_ * stride(ld_wide_) : 0);
    s.qkv.reserve(m_ * ld_qkv_ * 4);
    s.queries.reserve(m_ * c_.heads * depth_ * cache_bytes_);
    s.attended.reserve(m_ * ld_heads_ * (bytes_ ? 4 : cache_bytes_));
    s.gated.reserve(m_ * ld_inner_ * (bytes_ ? 4 : cache_bytes_));
    s.attended_inputs.reserve(bytes_ ? m_ * stride(ld_heads_) : 0);
    s.gated_inputs.reserve(bytes_ ? m_ * stride(ld_inner_) : 0);
    s.parts.reserve(parts * 4);
    s.scratch.reserve(num_threads() * scratch_ * 4);
    s.rotary.reserve(t_.rotaries.size() * m_ * c_.dim * 4);
    s.columns.reserve(part_.stats ? num_threads() * kStatsRows * kStatsColumns * 4 : 0);
    s.cuts.reserve(part_.stats ? set_.wanted.size() * column_blocks() * sizeof(VocabCut) : 0);
    s.credit_logits.reserve(part_.stats ? set_.wanted.size() * part_.stats->credit_slots * 4 : 0);
  }

  static const size_t kCached = size_t(64) << 20;  // bytes of weights that may still be in the last cache when the next pass comes
  static const int64_t kStatsRows = 64, kStatsColumns = 1024;  // of logits that are looked at before the next take their place

  Transformer& t_;
  const TransformerConfig& c_;
  KvCache& cache_;
  const TokenSet& set_;
  const StepPart& part_;
  const StepKernels &kernels_, &cache_kernels_;
  int64_t m_, cache_bytes_;  // m_: tokens that the pass still goes on with
  bool bytes_;  // int8 weights: what enters a product is made from floats once a whole row is there
  int64_t ld_, ld_heads_, ld_inner_, ld_qkv_, ld_wide_, depth_, scratch_ = 0;
  std::vector<int64_t> windows_;
  std::vector<AttentionPlan> plans_;
  bool narrows_ = false, once_;
  TokenSet last_;  // the tokens that the last layer ends with
  AttentionPlan last_plan_;
};

void run_step(Transformer& model, KvCache& cache, const TokenSet& set, const StepPart& part) { Step(model, cache, set, part).run(); }

}  // namespace fastdecode
