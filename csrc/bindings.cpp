// Table of contents of fastdecode._C: one line per operation, no logic. Pointers arrive as integers that the Python layer has
// taken from checked tensors; the interpreter lock is released inside every call.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "ops/cpu/active_set.h"
#include "ops/cpu/adaptive_block_size.h"
#include "ops/cpu/kv_compact.h"
#include "ops/cpu/kv_write.h"
#include "ops/cpu/process_probs.h"
#include "ops/cpu/transport.h"
#include "ops/cpu/tree_expand.h"
#include "ops/cpu/unmask_commit.h"
#include "ops/cpu/tree_attention.h"
#include "ops/cpu/verify_chain.h"
#include "ops/cpu/verify_states.h"
#include "ops/cpu/verify_tree_greedy.h"
#include "ops/cpu/verify_tree_point.h"
#include "ops/cpu/verify_tree_recursive.h"
#include "ops/cpu/vocab_stats.h"
#include "ops/kernel.h"
#include "runtime/bandwidth.h"
#include "runtime/bind_runtime.h"
#include "runtime/bind_tree_grower.h"
#include "runtime/parallel.h"
#include "structures/bind_drafts.h"

namespace py = pybind11;
using namespace fastdecode;

namespace {

using Ptr = uintptr_t;
using Unlocked = py::call_guard<py::gil_scoped_release>;

template <class T>
T* at(Ptr p) {
  return reinterpret_cast<T*>(p);
}

using Rows = std::array<int64_t, 3>;  // of laws: values, lse, dtype

Laws laws(const Rows& rows) { return {at<void>(Ptr(rows[0])), at<float>(Ptr(rows[1])), rows[2]}; }

std::map<std::string, std::vector<std::string>> implementations() {
  std::map<std::string, std::vector<std::string>> result;
  for (const auto& [op, levels] : registry())
    for (Isa level : levels) result[op].push_back(isa_name(level));
  return result;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.attr("__version__") = FASTDECODE_VERSION;
  m.def("isa", [] { return isa_name(isa()); });
  m.def("set_isa", &set_isa);
  m.def("cpu_features", &cpu_features);
  m.def("implementations", &implementations);
  m.def("num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads);

  m.def("read_seconds", [](Ptr data, int64_t words, bool once) { return read_seconds(at<uint64_t>(data), words, once); }, py::arg("data"), py::arg("words"), py::arg("once") = false, Unlocked());
  bind_drafts(m);
  bind_runtime(m);
  bind_tree_grower(m);

  m.def("verify_tree_greedy", [](Ptr tokens, Ptr first_child, Ptr next_sibling, Ptr choice, int64_t batch, int64_t nodes, Ptr path, Ptr accept_len, Ptr next_token) {
    verify_tree_greedy({at<int32_t>(tokens), at<int32_t>(first_child), at<int32_t>(next_sibling), at<int32_t>(choice), batch, nodes, at<int32_t>(path), at<int32_t>(accept_len), at<int32_t>(next_token)});
  }, Unlocked());
  m.def("tree_expand_scratch", &tree_expand_scratch);
  m.def("tree_expand", [](Ptr logits, int64_t rows, int64_t vocab, int64_t stride, int64_t dtype, Ptr scores, int64_t k, Ptr ids, Ptr child_scores, Ptr scratch) {
    tree_expand({at<void>(logits), rows, vocab, stride, dtype, at<float>(scores), k, at<int32_t>(ids), at<float>(child_scores), at<float>(scratch)});
  }, Unlocked());
  m.def("unmask_commit", [](Ptr floats, Ptr ints, Ptr begin, Ptr position, Ptr factor, Ptr noise, Ptr tie, Ptr accepted, Ptr quota, int64_t rows, int64_t batch, int64_t scorer, int64_t rule, float bar, int64_t step, float cut, Ptr canvas, Ptr eos, int64_t eos_count, Ptr tokens, Ptr changed, int64_t stride, Ptr scores, Ptr sorted, Ptr rank, Ptr chosen, Ptr finish) {
    unmask_commit({at<float>(floats), at<int32_t>(ints), at<int32_t>(begin), at<int32_t>(position), at<float>(factor), at<float>(noise), at<float>(tie), at<uint8_t>(accepted), at<int32_t>(quota), rows, batch, scorer, rule, bar, step, cut, at<int32_t>(canvas), at<int32_t>(eos), eos_count, at<int32_t>(tokens), at<int32_t>(changed), stride, at<float>(scores), at<float>(sorted), at<int32_t>(rank), at<int32_t>(chosen), at<int32_t>(finish)});
  }, Unlocked());
  m.def("draft_states", [](Ptr ints, Ptr begin, Ptr position, Ptr rank, Ptr chosen, int64_t rows, int64_t batch, int64_t depth, int64_t step, Ptr tokens, Ptr changed, int64_t length, Ptr draft_tokens, Ptr draft_changed, Ptr count) {
    draft_states({at<int32_t>(ints), at<int32_t>(begin), at<int32_t>(position), at<int32_t>(rank), at<int32_t>(chosen), rows, batch, depth, step, at<int32_t>(tokens), at<int32_t>(changed), length, at<int32_t>(draft_tokens), at<int32_t>(draft_changed), at<int32_t>(count)});
  }, Unlocked());
  m.def("verify_states", [](Ptr tokens, Ptr changed, Ptr next_tokens, Ptr next_changed, Ptr count, int64_t batch, int64_t depth, int64_t length, Ptr reached) {
    verify_states({at<int32_t>(tokens), at<int32_t>(changed), at<int32_t>(next_tokens), at<int32_t>(next_changed), at<int32_t>(count), batch, depth, length, at<int32_t>(reached)});
  }, Unlocked());
  m.def("active_set", [](Ptr changed, int64_t stride, Ptr low, Ptr high, Ptr since, int64_t batch, int64_t shift, Ptr positions, Ptr count) {
    active_set({at<int32_t>(changed), stride, at<int32_t>(low), at<int32_t>(high), at<int32_t>(since), batch, shift, at<int32_t>(positions), at<int32_t>(count)});
  }, Unlocked());
  m.def("kv_write", [](Ptr states, Ptr buffer, int64_t batch, int64_t heads, int64_t count, int64_t dim_bytes, int64_t state_row_stride, int64_t state_head_stride, int64_t state_token_stride, int64_t slot_rows, int64_t slots, int64_t row_stride, int64_t head_stride, int64_t slot_stride, Ptr rows, Ptr positions) {
    kv_write({at<char>(states), at<char>(buffer), batch, heads, count, dim_bytes, state_row_stride, state_head_stride, state_token_stride, slot_rows, slots, row_stride, head_stride, slot_stride, at<int64_t>(rows), at<int64_t>(positions)});
  }, Unlocked());
  m.def("adaptive_block_size", [](Ptr floats, Ptr ints, Ptr begin, Ptr position, Ptr start, Ptr reach, Ptr remaining, int64_t batch, Ptr delimiters, int64_t delimiter_count, float bar, int64_t default_length, Ptr length) {
    adaptive_block_size({at<float>(floats), at<int32_t>(ints), at<int32_t>(begin), at<int32_t>(position), at<int32_t>(start), at<int32_t>(reach), at<int32_t>(remaining), batch, at<int32_t>(delimiters), delimiter_count, bar, default_length, at<int32_t>(length)});
  }, Unlocked());
  m.def("vocab_stats", [](Ptr logits, int64_t rows, int64_t vocab, int64_t stride, int dtype, Ptr ids, int64_t ids_per_row, Ptr banned, int64_t banned_count, Ptr temperature, Ptr key, Ptr floats, Ptr ints, Ptr id_logits, Ptr credit_rows, Ptr credit_ids, Ptr credit_values, int64_t credit_slots, Ptr credit_rates) {
    vocab_stats({at<void>(logits), rows, vocab, stride, dtype, at<int32_t>(ids), ids_per_row, at<int32_t>(banned), banned_count, at<float>(temperature), at<int64_t>(key), at<float>(floats), at<int32_t>(ints), at<float>(id_logits), at<int32_t>(credit_rows), at<int32_t>(credit_ids), at<float>(credit_values), credit_slots, at<float>(credit_rates)});
  }, Unlocked());
  m.def("process_probs_scratch", &process_probs_scratch);
  m.def("process_probs", [](Ptr logits, int64_t rows, int64_t vocab, int64_t stride, int dtype, Ptr temperature, Ptr top_k, Ptr top_p, Ptr min_p, Ptr repetition_penalty, Ptr presence_penalty, Ptr frequency_penalty, Ptr prefix, Ptr prefix_offsets, Ptr generated_from, Ptr probs, Ptr scratch, Ptr counts) {
    process_probs({at<void>(logits), rows, vocab, stride, dtype, at<float>(temperature), at<int32_t>(top_k), at<float>(top_p), at<float>(min_p), at<float>(repetition_penalty), at<float>(presence_penalty), at<float>(frequency_penalty), at<int32_t>(prefix), at<int64_t>(prefix_offsets), at<int32_t>(generated_from), at<float>(probs), at<float>(scratch), at<int32_t>(counts)});
  }, Unlocked());
  m.def("tree_attention_scratch", &tree_attention_scratch);
  m.def("tree_attention", [](Ptr query, Ptr key, Ptr value, int dtype, std::array<int64_t, 5> size, std::array<int64_t, 3> q, std::array<int64_t, 3> k, std::array<int64_t, 3> v, Ptr rows, Ptr lengths, Ptr ancestors, int64_t words, Ptr depth, float scaling, int64_t window, Ptr out, Ptr scratch) {
    tree_attention({at<void>(query), at<void>(key), at<void>(value), dtype, size[0], size[1], size[2], size[3], size[4], {q[0], q[1], q[2]}, {k[0], k[1], k[2]}, {v[0], v[1], v[2]}, at<int32_t>(rows), at<int32_t>(lengths), at<int64_t>(ancestors), words, at<int32_t>(depth), scaling, window, at<void>(out), at<float>(scratch)});
  }, Unlocked());
  m.def("kv_compact", [](Ptr buffers, int64_t count, int64_t slot_rows, int64_t heads, int64_t slots, int64_t dim_bytes, int64_t row_stride, int64_t head_stride, int64_t slot_stride, Ptr rows, Ptr path, Ptr accept_len, Ptr lengths, int64_t batch, int64_t nodes) {
    kv_compact({at<int64_t>(buffers), count, slot_rows, heads, slots, dim_bytes, row_stride, head_stride, slot_stride, at<int32_t>(rows), at<int32_t>(path), at<int32_t>(accept_len), at<int32_t>(lengths), batch, nodes});
  }, Unlocked());
  m.def("verify_tree_point", [](Ptr tokens, Ptr first_child, Ptr next_sibling, Ptr probs, Ptr key, int64_t batch, int64_t nodes, int64_t vocab, Ptr path, Ptr accept_len, Ptr next_token) {
    verify_tree_point({at<int32_t>(tokens), at<int32_t>(first_child), at<int32_t>(next_sibling), at<float>(probs), at<int64_t>(key), batch, nodes, vocab, at<int32_t>(path), at<int32_t>(accept_len), at<int32_t>(next_token)});
  }, Unlocked());
  m.def("verify_chain", [](Ptr tokens, Ptr q, Ptr p, Ptr num, Ptr key, int64_t batch, int64_t length, int64_t vocab, Ptr accept_len, Ptr next_token) {
    verify_chain({at<int32_t>(tokens), at<float>(q), at<float>(p), at<int32_t>(num), at<int64_t>(key), batch, length, vocab, at<int32_t>(accept_len), at<int32_t>(next_token)});
  }, Unlocked());
  m.def("verify_block", [](Ptr tokens, Ptr q, Ptr p, Ptr num, Ptr key, int64_t batch, int64_t length, int64_t vocab, Ptr accept_len, Ptr next_token) {
    verify_block({at<int32_t>(tokens), at<float>(q), at<float>(p), at<int32_t>(num), at<int64_t>(key), batch, length, vocab, at<int32_t>(accept_len), at<int32_t>(next_token)});
  }, Unlocked());
  m.def("verify_tree_recursive", [](Ptr tokens, Ptr first_child, Ptr next_sibling, Ptr p, Ptr q, Ptr key, Ptr draw_offsets, Ptr draw_tokens, int64_t batch, int64_t nodes, int64_t vocab, int64_t draws, int replacement, Ptr workspace, Ptr path, Ptr accept_len, Ptr next_token) {
    verify_tree_recursive({at<int32_t>(tokens), at<int32_t>(first_child), at<int32_t>(next_sibling), at<float>(p), at<float>(q), at<int64_t>(key), at<int32_t>(draw_offsets), at<int32_t>(draw_tokens), batch, nodes, vocab, draws, replacement, at<double>(workspace), at<int32_t>(path), at<int32_t>(accept_len), at<int32_t>(next_token)});
  }, Unlocked());
  m.def("transport_plan", [](Rows p, Rows q, Ptr draws, Ptr weight, int64_t rows, int64_t vocab, Ptr head, Ptr knots) {
    transport_plan({laws(p), laws(q), at<int32_t>(draws), at<double>(weight), rows, vocab, at<double>(head), at<double>(knots)});
  }, Unlocked());
  m.def("verify_tree_transport", [](Ptr tokens, Ptr first_child, Ptr next_sibling, Rows p, Rows q, Ptr key, Ptr draw_offsets, Ptr draw_tokens, int64_t batch, int64_t nodes, int64_t vocab, int64_t draws, Ptr workspace, Ptr path, Ptr accept_len, Ptr next_token) {
    verify_tree_transport({at<int32_t>(tokens), at<int32_t>(first_child), at<int32_t>(next_sibling), laws(p), laws(q), at<int64_t>(key), at<int32_t>(draw_offsets), at<int32_t>(draw_tokens), batch, nodes, vocab, draws, at<double>(workspace), at<int32_t>(path), at<int32_t>(accept_len), at<int32_t>(next_token)});
  }, Unlocked());
  m.def("verify_tree_transport_block", [](Ptr tokens, Ptr first_child, Ptr next_sibling, Rows p, Rows q, Ptr key, Ptr draw_offsets, Ptr draw_tokens, int64_t batch, int64_t nodes, int64_t vocab, int64_t draws, Ptr workspace, Ptr path, Ptr accept_len, Ptr next_token) {
    verify_tree_transport_block({at<int32_t>(tokens), at<int32_t>(first_child), at<int32_t>(next_sibling), laws(p), laws(q), at<int64_t>(key), at<int32_t>(draw_offsets), at<int32_t>(draw_tokens), batch, nodes, vocab, draws, at<double>(workspace), at<int32_t>(path), at<int32_t>(accept_len), at<int32_t>(next_token)});
  }, Unlocked());
}
