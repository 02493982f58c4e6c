#include "structures/suffix_predictor.h"

#include "structures/draft_tree.h"

namespace fastdecode {
namespace {

void learn(const SuffixAutomaton& automaton, SuffixAutomaton::Match match, int32_t token, Reliability& reliability) {
  if (match.state == 0) return;
  const int hit = automaton.predicts(match, token);
  if (hit >= 0) reliability.record(match.length, hit == 1);
}

}  // namespace

void SuffixPredictor::extend(const int32_t* tokens, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    learn(own_, own_.self_match(), tokens[i], own_reliability_);
    own_.extend(tokens + i, 1);
    if (!corpus_) continue;
    learn(*corpus_, corpus_match_, tokens[i], corpus_reliability_);
    corpus_match_ = corpus_->advance(corpus_match_, tokens[i]);
  }
}

Draft SuffixPredictor::propose(int32_t max_nodes, int32_t max_depth, double min_score) const {
  Draft own = own_.propose(own_.self_match(), max_nodes, max_depth, min_score, own_reliability_);
  if (!corpus_ || corpus_match_.state == 0) return own;
  DraftMerger merger;
  merger.add(own);
  merger.add(corpus_->propose(corpus_match_, max_nodes, max_depth, min_score, corpus_reliability_));
  return merger.best(max_nodes);
}

}  // namespace fastdecode
