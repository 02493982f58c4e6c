// Python names of the native transformer. Weights arrive as pointers that the Python layer has taken from checked tensors.
#include "runtime/bind_runtime.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>

#include "ops/cpu/convert.h"
#include "runtime/transformer.h"

namespace py = pybind11;

namespace fastdecode {
namespace {

using Ids = py::array_t<int32_t, py::array::c_style>;
using Unlocked = py::call_guard<py::gil_scoped_release>;

Element element_of(const std::string& name) {
  if (name == "float32") return Element::f32;
  if (name == "bfloat16") return Element::bf16;
  if (name == "int8") return Element::i8;
  throw std::invalid_argument("weights='" + name + "' is unknown: use float32, bfloat16 or int8");
}

const void* pointer(uintptr_t p) { return reinterpret_cast<const void*>(p); }

template <class T>
T* at(uintptr_t p) {
  return reinterpret_cast<T*>(p);
}

std::vector<float> padded(const std::vector<float>& weights) {
  std::vector<float> result = weights;
  result.resize(round_up(int64_t(weights.size()), kPanel), 0.0f);
  return result;
}

// Trees of counts[b] nodes out of [B, N], behind `lengths` committed tokens; nodes before first[b], if given, are in the cache already.
void add_trees(TokenSet& set, const std::vector<int32_t>& rows, const std::vector<int32_t>& lengths, const Ids& tokens, const Ids& parents, const Ids& counts, const std::vector<int64_t>& first) {
  const int64_t batch = int64_t(rows.size()), nodes = batch ? tokens.size() / batch : 0;
  if (tokens.size() != parents.size() || counts.size() != batch || int64_t(lengths.size()) != batch || tokens.size() != batch * nodes || (!first.empty() && int64_t(first.size()) != batch))
    throw std::invalid_argument("tokens and parents must be [B, N], counts, rows, lengths and first [B]");
  for (int64_t b = 0; b < batch; ++b) {
    if (counts.at(b) < 0 || counts.at(b) > nodes) throw std::invalid_argument("counts[" + std::to_string(b) + "] = " + std::to_string(counts.at(b)) + " is not in 0 .. " + std::to_string(nodes));
    set.add_tree(rows[b], lengths[b], tokens.data() + b * nodes, parents.data() + b * nodes, counts.at(b), first.empty() ? 0 : first[b]);
  }
}

void add_positions(TokenSet& set, int32_t row, const Ids& tokens, const Ids& positions, const Ids& ends) {
  if (tokens.size() != positions.size() || tokens.size() != ends.size()) throw std::invalid_argument("tokens, positions and ends must have the same length");
  set.add_positions(row, tokens.data(), positions.data(), ends.data(), tokens.size());
}

void want(TokenSet& set, const Ids& tokens) {
  std::vector<int32_t> wanted(tokens.data(), tokens.data() + tokens.size());
  for (size_t i = 0; i < wanted.size(); ++i)
    if (wanted[i] < 0 || wanted[i] >= set.size() || (i > 0 && wanted[i] <= wanted[i - 1])) throw std::invalid_argument("wanted[" + std::to_string(i) + "] = " + std::to_string(wanted[i]) + " does not ascend within the " + std::to_string(set.size()) + " tokens of the set");
  set.wanted = std::move(wanted);
}

// float32 [ids, width], one row per id.
template <class F>
py::array_t<float> rows_of(const Ids& ids, int64_t count, int64_t width, const F& write) {
  py::array_t<float> result({py::ssize_t(ids.size()), py::ssize_t(width)});
  for (py::ssize_t i = 0; i < ids.size(); ++i) {
    const int32_t id = ids.data()[i];
    if (id < 0 || id >= count) throw std::invalid_argument("id " + std::to_string(id) + " is outside 0 .. " + std::to_string(count - 1));
    write(id, result.mutable_data(i, 0));
  }
  return result;
}

StepPart part_of_pass(int64_t begin, int64_t end, uintptr_t hidden, const std::vector<int64_t>& taps, uintptr_t tapped) {
  StepPart part;
  part.begin = begin;
  part.end = end;
  part.hidden = at<float>(hidden);
  part.taps = taps;
  part.tapped = at<float>(tapped);
  return part;
}

// Over trees behind `lengths` committed tokens: int32 [2, B, N], the most probable token after every node and the runner-up, -1 where
// there is none; and the hidden states [taps, M, width] of the nodes.
py::tuple most_probable(Transformer& t, KvCache& cache, const std::vector<int32_t>& rows, const std::vector<int32_t>& lengths, const Ids& tokens, const Ids& parents, const Ids& counts, int64_t begin, uintptr_t hidden, const std::vector<int64_t>& taps) {
  TokenSet set;
  add_trees(set, rows, lengths, tokens, parents, counts, {});
  const int64_t batch = int64_t(rows.size()), nodes = batch ? tokens.size() / batch : 0, size = set.size();
  py::array_t<float> tapped({int64_t(taps.size()), size, t.config.width});
  py::array_t<int32_t> found({int64_t(2), batch, nodes});
  std::vector<int32_t> ids(2 * size);
  VocabStatsArgs stats{};
  stats.rows = size;
  stats.vocab = t.config.outputs;
  stats.ints = ids.data();
  StepPart part = part_of_pass(begin, -1, hidden, taps, reinterpret_cast<uintptr_t>(tapped.mutable_data()));
  part.stats = &stats;
  {
    py::gil_scoped_release unlocked;
    t.forward(cache, set, part);
  }
  std::fill(found.mutable_data(), found.mutable_data() + found.size(), -1);
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t i = 0; i < counts.at(b); ++i)
      for (int64_t k = 0; k < 2; ++k) found.mutable_at(k, b, i) = ids[2 * (set.begin[b] + i) + k];
  return py::make_tuple(found, tapped);
}

}  // namespace

void bind_runtime(py::module_& m) {
  py::class_<KvCache>(m, "KvCache")
      .def("reserve", &KvCache::reserve)
      .def("copy_row", &KvCache::copy_row, Unlocked())
      .def("compact", [](KvCache& c, int64_t row, int64_t first, const Ids& path) { c.compact(row, first, path.data(), path.size()); })
      .def_property_readonly("nbytes", &KvCache::bytes);

  py::class_<TokenSet>(m, "TokenSet")
      .def(py::init<>())
      .def("__len__", &TokenSet::size)
      .def("add_chain", [](TokenSet& set, int32_t row, int32_t length, const std::vector<int32_t>& tokens) { set.add_chain(row, length, tokens.data(), int64_t(tokens.size())); })
      .def("add_trees", &add_trees, py::arg("rows"), py::arg("lengths"), py::arg("tokens"), py::arg("parents"), py::arg("counts"), py::arg("first") = std::vector<int64_t>{})
      .def("add_positions", &add_positions)
      .def("want", &want);

  py::class_<PackedMatrix>(m, "PackedMatrix")
      .def(py::init([](const std::string& element, int64_t outputs, int64_t inputs) { return PackedMatrix(element_of(element), outputs, inputs); }))
      .def("pack", [](PackedMatrix& w, uintptr_t rows, int dtype, int64_t count, int64_t first, int64_t block, int64_t period) { w.pack(pointer(rows), dtype, count, {first, block, period}); }, Unlocked())
      .def("set_bias", [](PackedMatrix& w, uintptr_t bias, int dtype, int64_t count, int64_t first, int64_t block, int64_t period) { w.set_bias(pointer(bias), dtype, count, {first, block, period}); })
      .def_property_readonly("nbytes", &PackedMatrix::bytes);

  py::class_<Layer>(m, "Layer")
      .def(py::init<>())
      .def("set_matrix", [](Layer& l, const std::string& name, PackedMatrix& w) {
        PackedMatrix* const slot = name == "qkv" ? &l.qkv : name == "out" ? &l.out : name == "gate_up" ? &l.gate_up : name == "down" ? &l.down : nullptr;
        if (!slot) throw std::invalid_argument("a layer has no matrix '" + name + "'");
        *slot = std::move(w);
      })
      .def("set_norm", [](Layer& l, const std::string& name, const std::vector<float>& w) {
        std::vector<float>* const slot = name == "attention" ? &l.attention_norm : name == "query" ? &l.query_norm : name == "key" ? &l.key_norm : name == "after_attention" ? &l.after_attention_norm : name == "mlp" ? &l.mlp_norm : name == "after_mlp" ? &l.after_mlp_norm : name == "token" ? &l.token_norm : nullptr;
        if (!slot) throw std::invalid_argument("a layer has no norm '" + name + "'");
        *slot = padded(w);
      })
      .def_readwrite("window", &Layer::window)
      .def_readwrite("rotary", &Layer::rotary);

  py::class_<Transformer>(m, "Transformer")
      .def(py::init([](const std::string& element, int64_t vocab, int64_t width, int64_t heads, int64_t kv_heads, int64_t dim, int64_t inner, float epsilon, float attention_scale, float embedding_scale, const std::string& activation, int64_t outputs) {
             if (activation != "silu" && activation != "gelu") throw std::invalid_argument("activation '" + activation + "' is unknown: use silu or gelu");
             auto t = std::make_unique<Transformer>();
             t->config = {element_of(element), vocab, width, heads, kv_heads, dim, inner, outputs ? outputs : vocab, epsilon, attention_scale, embedding_scale, activation == "silu" ? Activation::silu : Activation::gelu};
             return t;
           }),
           py::kw_only(), py::arg("element"), py::arg("vocab"), py::arg("width"), py::arg("heads"), py::arg("kv_heads"), py::arg("dim"), py::arg("inner"), py::arg("epsilon"), py::arg("attention_scale"), py::arg("embedding_scale"), py::arg("activation"), py::arg("outputs") = 0)
      .def("add_layer", [](Transformer& t, Layer& layer) { t.layers.push_back(std::move(layer)); })
      .def("add_rotary", [](Transformer& t, const std::vector<float>& frequencies, float scale) { t.rotaries.push_back({frequencies, scale}); })
      .def("set_norm", [](Transformer& t, const std::vector<float>& w) { t.norm = padded(w); })
      .def("set_head", [](Transformer& t, PackedMatrix& w) { t.head = std::move(w); })
      .def("set_fusion", [](Transformer& t, PackedMatrix& w) { t.fusion = std::move(w); })
      .def("read_words_of", [](Transformer& t, Transformer& words) { t.words = &words; }, py::keep_alive<1, 2>())
      .def("set_embedding", [](Transformer& t, uintptr_t rows, int dtype) {
        const int64_t n = t.config.vocab * t.config.width;
        t.embedding = Memory(n * bytes_of(t.cache_element()));
        for (int64_t i = 0; i < n; ++i) {
          const float w = element(pointer(rows), dtype, i);
          if (t.cache_element() == Element::f32)
            t.embedding.at<float>()[i] = w;
          else
            t.embedding.at<uint16_t>()[i] = bf16_of_float(w);
        }
      }, Unlocked())
      .def("check", &Transformer::check)
      .def("embed", [](const Transformer& t, const Ids& ids) { return rows_of(ids, t.config.vocab, t.config.width, [&](int32_t id, float* out) { t.embed(id, out); }); })
      .def("head_rows", [](const Transformer& t, const Ids& ids) { return rows_of(ids, t.config.outputs, t.config.width, [&](int32_t id, float* out) { t.head.unpack(id, 1, out); }); })
      .def_property_readonly("norm", [](const Transformer& t) { return std::vector<float>(t.norm.begin(), t.norm.begin() + std::min<int64_t>(t.norm.size(), t.config.width)); })
      .def_property_readonly("weight_bytes", &Transformer::weight_bytes)
      .def("new_cache", [](const Transformer& t, int64_t rows, int64_t capacity) { return std::make_unique<KvCache>(t.cache_shape(), rows, capacity); })
      .def("forward", [](Transformer& t, KvCache& cache, const TokenSet& set, uintptr_t logits, int64_t ld, int64_t begin, int64_t end, uintptr_t hidden, uintptr_t features, const std::vector<int64_t>& taps, uintptr_t tapped, float guidance) {
             StepPart part = part_of_pass(begin, end, hidden, taps, tapped);
             part.guidance = guidance;
             part.logits = at<float>(logits);
             part.ld = ld;
             part.features = at<float>(features);
             t.forward(cache, set, part);
           },
           Unlocked(), py::arg("cache"), py::arg("set"), py::kw_only(), py::arg("logits") = 0, py::arg("ld") = 0, py::arg("begin") = 0, py::arg("end") = -1, py::arg("hidden") = 0, py::arg("features") = 0, py::arg("taps") = std::vector<int64_t>{}, py::arg("tapped") = 0, py::arg("guidance") = 0.0f)
      .def("most_probable", &most_probable, py::arg("cache"), py::arg("rows"), py::arg("lengths"), py::arg("tokens"), py::arg("parents"), py::arg("counts"), py::kw_only(), py::arg("begin") = 0, py::arg("hidden") = 0, py::arg("taps") = std::vector<int64_t>{})
      .def("forward_stats", [](Transformer& t, KvCache& cache, const TokenSet& set, uintptr_t ids, int64_t ids_per_row, uintptr_t banned, int64_t banned_count, uintptr_t temperature, uintptr_t key, uintptr_t floats, uintptr_t ints, uintptr_t id_logits, uintptr_t credit_rows, uintptr_t credit_ids, uintptr_t credit_values, int64_t credit_slots, uintptr_t credit_rates, int64_t begin, int64_t end, uintptr_t hidden, const std::vector<int64_t>& taps, uintptr_t tapped, float guidance) {
             StepPart part = part_of_pass(begin, end, hidden, taps, tapped);
             part.guidance = guidance;
             const VocabStatsArgs stats{nullptr, part.outputs(set), t.config.outputs, 0, kFloat32, at<int32_t>(ids), ids_per_row, at<int32_t>(banned), banned_count, at<float>(temperature), at<int64_t>(key), at<float>(floats), at<int32_t>(ints), at<float>(id_logits), at<int32_t>(credit_rows), at<int32_t>(credit_ids), at<float>(credit_values), credit_slots, at<float>(credit_rates)};
             part.stats = &stats;
             t.forward(cache, set, part);
           },
           Unlocked(), py::arg("cache"), py::arg("set"), py::arg("ids"), py::arg("ids_per_row"), py::arg("banned"), py::arg("banned_count"), py::arg("temperature"), py::arg("key"), py::arg("floats"), py::arg("ints"), py::arg("id_logits"), py::arg("credit_rows"), py::arg("credit_ids"), py::arg("credit_values"), py::arg("credit_slots"), py::arg("credit_rates"), py::kw_only(), py::arg("begin") = 0, py::arg("end") = -1, py::arg("hidden") = 0, py::arg("taps") = std::vector<int64_t>{}, py::arg("tapped") = 0, py::arg("guidance") = 0.0f);
}

}  // namespace fastdecode
