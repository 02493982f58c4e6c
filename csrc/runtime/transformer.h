// A decoder-only transformer on packed weights: one step over a token set, its keys and values in a KvCache.
#pragma once

#include <vector>

#include "ops/cpu/vocab_stats.h"
#include "runtime/kv_cache.h"
#include "runtime/packed_matrix.h"
#include "runtime/token_set.h"
#include "runtime/weight_stream.h"

namespace fastdecode {

enum class Activation { silu, gelu };

struct TransformerConfig {
  Element element;  // of the weights; keys and values are bfloat16 where these are int8
  int64_t vocab, width, heads, kv_heads, dim, inner;  // inner: width of the gated MLP
  int64_t outputs;                                    // columns of the head; vocab, but for draft heads
  float epsilon;                                      // of the RMS norms
  float attention_scale, embedding_scale;
  Activation activation;
};

// Rotary frequencies; layers name one by its index, or -1 for none.
struct Rotary {
  std::vector<float> frequencies;  // radians per position, for the pairs (i, i + count)
  float scale;                     // of sines and cosines (YaRN)
};

struct Layer {
  // qkv: for every key/value head the queries that share it, its key and its value, so that one thread makes what one thread needs
  // next. gate_up: alternating panels.
  PackedMatrix qkv, out, gate_up, down;
  // Weights of norms, padded to a multiple of 16 with zeros; empty where a family has none.
  std::vector<float> attention_norm, query_norm, key_norm, after_attention_norm, mlp_norm, after_mlp_norm;
  // With this norm, qkv takes two rows side by side: the embedding of the token, normalised by it, and the hidden state (EAGLE-3).
  std::vector<float> token_norm;
  int64_t window = 0;  // keys a token sees, itself included; 0: all
  int rotary = -1;
};

// Which part of a pass to run and what to keep of it. Hidden states are float32 [M, width]; those before layer i are the output
// of i layers, those before the layer behind the last are what the final norm takes.
struct StepPart {
  int64_t begin = 0, end = -1;     // layers; -1: all
  const float* hidden = nullptr;   // before layer `begin`, in the place of the embeddings
  const float* features = nullptr; // [M, inputs of `fusion`], which makes the hidden states before layer 0 from them
  std::vector<int64_t> taps;       // layers before which hidden states are kept, ascending, begin ... end
  float* tapped = nullptr;         // [taps, M, width]
  // After layer `end`, of the wanted tokens: logits [wanted, ld], ld >= the head's columns (a multiple of 16), or what a pass
  // over them yields, without storing them. The caller fills in pointers and counts of `stats`, not the logits.
  float* logits = nullptr;
  int64_t ld = 0;
  const VocabStatsArgs* stats = nullptr;
  // If not 0, the wanted tokens are two halves, with and without a condition, and the outputs, half as many, are with + guidance (with - without).
  float guidance = 0;
  bool head() const { return logits || stats; }
  int64_t outputs(const TokenSet& set) const { return int64_t(set.wanted.size()) / (guidance == 0 ? 1 : 2); }
};

const int64_t kMaxDim = 512;  // of a head

class Transformer {
 public:
  TransformerConfig config;
  std::vector<Rotary> rotaries;
  std::vector<Layer> layers;
  std::vector<float> norm;
  PackedMatrix head, fusion;
  Memory embedding;  // [vocab, width] elements of the cache; empty when it is the head itself
  Transformer* words = nullptr;  // whose embeddings are read in the place of its own

  void check() const;  // throws std::invalid_argument naming what is missing or does not fit
  size_t weight_bytes() const;
  void embed(int32_t id, float* out) const;  // [width], scaled as the first layer takes it
  Element cache_element() const { return config.element == Element::i8 ? Element::bf16 : config.element; }
  CacheShape cache_shape() const { return {cache_element(), int64_t(layers.size()), config.kv_heads, config.dim}; }

  // Computes the tokens of the set, or a part of the pass. Throws std::invalid_argument before anything is done.
  void forward(KvCache& cache, const TokenSet& set, StepPart part = {});

 private:
  struct Workspace {
    Memory hidden, mixed, inputs, pairs, wide_inputs, qkv, queries, attended, attended_inputs, gated, gated_inputs, parts, scratch, rotary, columns, cuts, credit_logits;
    std::vector<WeightStream> streams;  // one per member
  };
  friend class Step;
  Workspace space_;
};

// The pass of `Transformer::forward`, whose arguments are checked: step.cpp.
void run_step(Transformer& model, KvCache& cache, const TokenSet& set, const StepPart& part);

}  // namespace fastdecode
