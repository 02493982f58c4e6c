// Online suffix automaton (Blumer et al. 1985) over token ids, with occurrence counts, used to predict continuations
// (SAM decoding, arXiv:2411.10666; tree drafts after SuffixDecoding, arXiv:2411.04975).
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "structures/draft.h"

namespace fastdecode {

// How often the most frequent continuation of a context was right, by context length: the acceptance estimate of drafts.
class Reliability {
 public:
  double operator()(int32_t length) const;
  void record(int32_t length, bool hit);

 private:
  static constexpr int kBuckets = 12;
  static int bucket(int32_t length);
  double hits_[kBuckets] = {}, trials_[kBuckets] = {};
};

class SuffixAutomaton {
 public:
  // A context: the longest suffix of some text that occurs in this automaton.
  struct Match {
    int32_t state = 0, length = 0;
  };

  SuffixAutomaton();
  void extend(const int32_t* tokens, int64_t n);
  // Ends the current document: the next token starts a new one and no match crosses the border.
  void end_document();
  int64_t size() const { return size_; }

  // The longest suffix of the text itself that also occurred earlier in it.
  Match self_match() const;
  // Moves a match of another text by one token of that text.
  Match advance(Match match, int32_t token) const;
  // Most probable continuations of a context, best first; every score estimates the chance that the target takes the whole path.
  Draft propose(Match match, int32_t max_nodes, int32_t max_depth, double min_score, const Reliability& reliability) const;
  // Whether `token` is the most frequent continuation of the context; -1 when the context was never continued.
  int predicts(Match match, int32_t token) const;

 private:
  struct State {
    int32_t length = 0, link = -1, count = 0, first_edge = -1;
  };
  struct Edge {
    int32_t token, target, next;
  };
  struct Continuation {
    int32_t token, state, length;
    double share;
  };

  int32_t target(int32_t state, int32_t token) const;
  void connect(int32_t state, int32_t token, int32_t target);
  int32_t clone(int32_t state, int32_t length);
  void append(int32_t token);
  void continuations(Match match, const Reliability& reliability, std::vector<Continuation>& out) const;

  std::vector<State> states_;
  std::vector<Edge> edges_;
  std::unordered_map<uint64_t, int32_t> edge_of_;  // (state, token) -> edge
  int32_t last_ = 0;
  int64_t size_ = 0;
};

}  // namespace fastdecode
