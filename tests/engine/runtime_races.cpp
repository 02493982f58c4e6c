// Runs the transformer step on several threads, for the thread sanitizer; exits with 1 if results depend on the number of threads.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "runtime/parallel.h"
#include "runtime/transformer.h"

using namespace fastdecode;

namespace {

std::vector<float> random_floats(int64_t n, unsigned seed, float scale) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> result(n);
  for (float& x : result) x = normal(generator);
  return result;
}

PackedMatrix matrix(Element element, int64_t outputs, int64_t inputs, unsigned seed) {
  PackedMatrix w(element, outputs, inputs);
  const std::vector<float> rows = random_floats(outputs * inputs, seed, 0.2f);
  w.pack(rows.data(), 0, outputs, {0, outputs, outputs});
  return w;
}

void build(Transformer& t, Element element) {
  t.config = {element, 2500, 64, 4, 2, 16, 96, 2500, 1e-5f, 0.25f, 1.0f, Activation::silu};
  t.rotaries.push_back({random_floats(8, 1, 0.1f), 1.0f});
  for (unsigned i = 0; i < 3; ++i) {
    Layer layer;
    layer.qkv = matrix(element, 8 * 16, 64, 10 * i + 1);
    layer.out = matrix(element, 64, 64, 10 * i + 2);
    layer.gate_up = matrix(element, 192, 64, 10 * i + 3);
    layer.down = matrix(element, 64, 96, 10 * i + 4);
    layer.attention_norm = layer.mlp_norm = std::vector<float>(64, 1.0f);
    layer.rotary = 0;
    layer.window = i == 1 ? 20 : 0;
    t.layers.push_back(std::move(layer));
  }
  t.norm = std::vector<float>(64, 1.0f);
  t.head = matrix(element, 2500, 64, 99);
  t.check();
}

// Logits and statistics of a tree behind a prompt of 600 tokens (more than one split of the positions), and of a lone token beside it.
std::vector<float> step(Transformer& t) {
  KvCache cache(t.cache_shape(), 2, 8);
  for (int32_t start = 0; start < 600; start += 150) {
    std::vector<int32_t> tokens;
    for (int32_t i = 0; i < 150; ++i) tokens.push_back((start + i) * 7 % 2500);
    TokenSet prompt;
    prompt.add_chain(0, start, tokens.data(), 150);
    t.forward(cache, prompt);
  }
  std::vector<int32_t> tokens, parents;
  for (int32_t i = 0; i < 24; ++i) tokens.push_back(i * 31 % 2500), parents.push_back(i == 0 ? -1 : (i - 1) / 2);
  TokenSet set;
  set.add_tree(0, 600, tokens.data(), parents.data(), 24);
  set.add_tree(1, 0, tokens.data(), parents.data(), 1);
  std::vector<float> result(25 * 2512);
  StepPart logits;
  logits.logits = result.data();
  logits.ld = 2512;
  t.forward(cache, set, logits);
  std::vector<float> floats(25 * kVocabColumns);
  std::vector<int32_t> ints(50);
  const VocabStatsArgs stats{nullptr, 25, 2500, 0, 0, nullptr, 0, nullptr, 0, nullptr, nullptr, floats.data(), ints.data(), nullptr};
  StepPart part;
  part.stats = &stats;
  t.forward(cache, set, part);
  result.insert(result.end(), floats.begin(), floats.end());
  std::vector<float> few(3 * 2512);
  set.wanted = {2, 17, 24};  // the last layer leaves the others out
  logits.logits = few.data();
  t.forward(cache, set, logits);
  for (size_t i = 0; i < set.wanted.size(); ++i)
    if (!std::equal(few.begin() + i * 2512, few.begin() + i * 2512 + 2500, result.begin() + set.wanted[i] * 2512)) std::puts("few outputs differ from all"), std::exit(1);
  return result;
}

}  // namespace

int main() {
  for (Element element : {Element::f32, Element::bf16, Element::i8}) {
    Transformer t;
    build(t, element);
    set_num_threads(1);
    const std::vector<float> want = step(t);
    for (int threads : {2, 3, 7}) {
      set_num_threads(threads);
      for (int repeat = 0; repeat < 3; ++repeat)
        if (step(t) != want) return std::printf("results on %d threads differ\n", threads), 1;
    }
  }
  std::puts("equal on 1, 2, 3 and 7 threads");
}
