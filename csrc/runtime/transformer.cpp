#include "runtime/transformer.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "ops/cpu/convert.h"

namespace fastdecode {

namespace {

void require(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument(what);
}

void check_matrix(const PackedMatrix& w, Element element, int64_t outputs, int64_t inputs, const std::string& name) {
  require(w.element() == element && w.inputs() == inputs && w.panels() == (outputs + kPanel - 1) / kPanel, name + " has not the element type or the shape [" + std::to_string(outputs) + ", " + std::to_string(inputs) + "] that the configuration asks for");
}

}  // namespace

void Transformer::check() const {
  const TransformerConfig& c = config;
  require(c.vocab > 0 && c.width > 0 && c.inner > 0 && c.kv_heads > 0 && c.heads > 0, "the configuration has sizes that are not positive");
  require(c.heads % c.kv_heads == 0, "heads is not a multiple of kv_heads");
  require(c.dim > 0 && c.dim % kPanel == 0 && c.dim <= kMaxDim, "head dimension " + std::to_string(c.dim) + " is not a multiple of 16 up to " + std::to_string(kMaxDim));
  require(c.width % kPanel == 0 && c.inner % kPanel == 0, "hidden size or MLP width is not a multiple of 16");
  require(!layers.empty() && (int64_t(norm.size()) >= c.width || (norm.empty() && fusion.panels() > 0)), "layers or the final norm are missing");
  for (const Rotary& r : rotaries) require(!r.frequencies.empty() && int64_t(2 * r.frequencies.size()) <= c.dim, "rotary frequencies do not fit the head dimension");
  check_matrix(head, c.element, c.outputs, c.width, "lm_head");
  require(c.outputs == c.vocab || words || embedding.size() > 0, "a head with fewer columns than the vocabulary cannot be the embedding too");
  require(!words || (words->config.vocab == c.vocab && words->config.width == c.width), "the model whose embeddings are read has another vocabulary or width");
  if (fusion.panels() > 0) check_matrix(fusion, c.element, c.width, fusion.inputs(), "fusion");
  for (const Layer& l : layers) {
    check_matrix(l.qkv, c.element, (c.heads + 2 * c.kv_heads) * c.dim, l.token_norm.empty() ? c.width : 2 * c.width, "qkv");
    check_matrix(l.out, c.element, c.width, c.heads * c.dim, "out");
    check_matrix(l.gate_up, c.element, 2 * c.inner, c.width, "gate_up");
    check_matrix(l.down, c.element, c.width, c.inner, "down");
    require(l.rotary < int(rotaries.size()) && l.window >= 0, "a layer names a rotary table or window that does not exist");
    require(int64_t(l.attention_norm.size()) >= (l.token_norm.empty() && fusion.panels() > 0 ? 0 : c.width) && int64_t(l.mlp_norm.size()) >= c.width, "a layer's norms are missing");
  }
}

size_t Transformer::weight_bytes() const {
  size_t sum = head.bytes() + fusion.bytes() + norm.size() * 4;
  for (const Layer& l : layers) {
    for (const PackedMatrix* w : {&l.qkv, &l.out, &l.gate_up, &l.down}) sum += w->bytes();
    for (const auto* n : {&l.attention_norm, &l.query_norm, &l.key_norm, &l.after_attention_norm, &l.mlp_norm, &l.after_mlp_norm}) sum += n->size() * 4;
  }
  return sum;
}

void Transformer::embed(int32_t id, float* out) const {
  if (words) return words->embed(id, out);
  if (embedding.size() == 0) return head.unpack(id, config.embedding_scale, out);
  for (int64_t k = 0; k < config.width; ++k) out[k] = config.embedding_scale * element(embedding.at(), cache_element() == Element::f32 ? kFloat32 : kBFloat16, int64_t(id) * config.width + k);
}

void Transformer::forward(KvCache& cache, const TokenSet& set, StepPart part) {
  const int64_t count = int64_t(layers.size());
  if (part.end < 0) part.end = count;
  for (int32_t token : set.token) require(token >= 0 && token < config.vocab, "token " + std::to_string(token) + " is outside the vocabulary 0 .. " + std::to_string(config.vocab - 1));
  for (int32_t row : set.rows) require(row >= 0 && row < cache.rows(), "row " + std::to_string(row) + " is not in a cache of " + std::to_string(cache.rows()));
  require(0 <= part.begin && part.begin <= part.end && part.end <= count, "layers " + std::to_string(part.begin) + " to " + std::to_string(part.end) + " are not in a model of " + std::to_string(count));
  require(!part.features || (part.begin == 0 && fusion.panels() > 0 && !part.hidden), "features are for a head that fuses them before layer 0");
  require(part.guidance == 0 || (std::isfinite(part.guidance) && set.wanted.size() % 2 == 0), "guidance must be finite and take wanted tokens in pairs");
  require(part.begin == 0 || part.hidden, "a pass that starts at layer " + std::to_string(part.begin) + " needs the hidden states before it");
  for (size_t i = 0; i < part.taps.size(); ++i)
    require(part.begin <= part.taps[i] && part.taps[i] <= part.end && (i == 0 || part.taps[i - 1] < part.taps[i]), "hidden states before layer " + std::to_string(part.taps[i]) + " are asked for; layers must ascend from " + std::to_string(part.begin) + " to " + std::to_string(part.end));
  if (set.size() > 0) run_step(*this, cache, set, part);
}

}  // namespace fastdecode
