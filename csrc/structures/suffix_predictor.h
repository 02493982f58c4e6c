// Drafts for one request from its own text and, optionally, a corpus shared between requests.
#pragma once

#include <memory>

#include "structures/suffix_automaton.h"

namespace fastdecode {

class SuffixPredictor {
 public:
  explicit SuffixPredictor(std::shared_ptr<const SuffixAutomaton> corpus = nullptr) : corpus_(std::move(corpus)) {}
  // Appends tokens of the request's text and learns from each of them how far its predictions can be trusted.
  void extend(const int32_t* tokens, int64_t n);
  Draft propose(int32_t max_nodes, int32_t max_depth, double min_score) const;
  int64_t size() const { return own_.size(); }

 private:
  SuffixAutomaton own_;
  std::shared_ptr<const SuffixAutomaton> corpus_;
  SuffixAutomaton::Match corpus_match_;
  Reliability own_reliability_, corpus_reliability_;
};

}  // namespace fastdecode
