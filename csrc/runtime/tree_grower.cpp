#include "runtime/tree_grower.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>

#include "ops/cpu/convert.h"
#include "ops/cpu/tree_expand.h"
#include "runtime/parallel.h"

namespace fastdecode {

bool Growth::worthwhile() const {
  const int64_t level = tree.levels();
  const float elsewhere = level < int64_t(covered.size()) ? covered[level] : 0.0f;
  return level < levels && tree.promised() * (1 - elsewhere) > least;
}

TreeGrower::TreeGrower(Transformer& head, std::vector<int32_t> vocabulary, int64_t children) : head_(head), vocabulary_(std::move(vocabulary)), children_(children), ld_(round_up(head.config.outputs, kPanel)) {
  if (int64_t(vocabulary_.size()) != head.config.outputs) throw std::invalid_argument("vocabulary has " + std::to_string(vocabulary_.size()) + " ids, the head " + std::to_string(head.config.outputs) + " outputs");
  if (children < 1 || children > kMaxChildren) throw std::invalid_argument("children = " + std::to_string(children) + " must be 1 to " + std::to_string(kMaxChildren));
}

// Outputs of all tokens of the set and logits of the wanted ones. The rows of `features` are the text's, or states of the head's own width.
void TreeGrower::run(KvCache& cache, const TokenSet& set, const float* features, bool of_text) {
  const int64_t m = set.size(), width = head_.config.width;
  if (!fuses()) {
    pairs_.resize(m * 2 * width);
    for (int64_t i = 0; i < m; ++i) {
      float* pair = pairs_.data() + i * 2 * width;
      head_.embed(set.token[i], pair);
      std::copy(features + i * width, features + (i + 1) * width, pair + width);
    }
    features = pairs_.data();
  }
  StepPart part;
  (of_text || !fuses() ? part.features : part.hidden) = features;
  if (!set.wanted.empty()) {
    outputs_.resize(m * width);
    logits_.resize(set.wanted.size() * ld_);
    part.taps = {1};
    part.tapped = outputs_.data();
    part.logits = logits_.data();
    part.ld = ld_;
  }
  head_.forward(cache, set, part);
}

void TreeGrower::read(KvCache& cache, int32_t row, int32_t length, const std::vector<int32_t>& text, const float* features) {
  TokenSet set;
  set.add_chain(row, length, text.data(), int64_t(text.size()));
  run(cache, set, features, true);
}

double TreeGrower::grow(KvCache& cache, std::vector<Growth*> rows, const float* features) {
  const int64_t width = head_.config.width, k = std::min(children_, head_.config.outputs);
  TokenSet set;
  for (Growth* g : rows) {
    set.add_chain(g->row, g->length, g->text.data(), int64_t(g->text.size()));
    set.wanted.push_back(int32_t(set.size()) - 1);
    g->length += int32_t(g->text.size());
  }
  run(cache, set, features, true);
  const auto begin = std::chrono::steady_clock::now();
  std::vector<int32_t> last = set.wanted;  // where, in the outputs, the nodes stand whose children come next
  std::vector<int64_t> counts(rows.size(), 1);  // of these, by row
  scores_.assign(rows.size(), 1.0f);
  for (int64_t levels = 0;; ++levels) {
    const int64_t nodes = int64_t(last.size());
    ids_.resize(nodes * k);
    child_scores_.resize(nodes * k);
    scratch_.resize(num_threads() * tree_expand_scratch(head_.config.outputs));
    tree_expand({logits_.data(), nodes, head_.config.outputs, ld_, kFloat32, scores_.data(), k, ids_.data(), child_scores_.data(), scratch_.data()});
    TokenSet next;
    std::vector<Growth*> going;
    std::vector<int64_t> going_counts;
    states_.clear();
    scores_.clear();
    int64_t first = 0;
    for (size_t r = 0; r < rows.size(); first += counts[r++]) {
      Growth& g = *rows[r];
      g.tree.add(ids_.data() + first * k, child_scores_.data() + first * k, k, vocabulary_.data(), int64_t(vocabulary_.size()));
      if (!g.worthwhile()) continue;
      const std::vector<int32_t> above = g.tree.open();
      for (const int32_t parent : above) {
        const float* state = outputs_.data() + last[first + parent] * width;
        states_.insert(states_.end(), state, state + width);
      }
      const std::vector<float> scores = g.tree.open_scores();
      scores_.insert(scores_.end(), scores.begin(), scores.end());
      const int64_t all = int64_t(g.tree.tokens().size()), open = int64_t(above.size());
      next.add_tree(g.row, g.length, g.tree.tokens().data(), g.tree.parents().data(), all, all - open);
      going.push_back(&g);
      going_counts.push_back(open);
    }
    if (going.empty()) return levels ? std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / double(levels) : 0;
    run(cache, next, states_.data(), false);
    rows = std::move(going);
    counts = std::move(going_counts);
    last = next.wanted;
  }
}

}  // namespace fastdecode
