#include "structures/suffix_automaton.h"

#include <algorithm>
#include <queue>

namespace fastdecode {
namespace {

// Counts travel up the suffix links; contexts more than this many links above the whole text are short and frequent anyway,
// and a bound keeps runs of one repeated token linear.
constexpr int kCountHops = 64;
// Alternatives come from the longest context and from this many shorter ones.
constexpr int kBackoff = 3;
constexpr int kMaxChildren = 8;

uint64_t edge_key(int32_t state, int32_t token) { return uint64_t(uint32_t(state)) << 32 | uint32_t(token); }

}  // namespace

int Reliability::bucket(int32_t length) {
  if (length <= 8) return std::max(length, 0);
  return length <= 12 ? 9 : length <= 20 ? 10 : 11;
}

// A prior worth two observations: one token of context is right about one time in five, long contexts nearly always.
double Reliability::operator()(int32_t length) const {
  static const double prior[kBuckets] = {0.02, 0.20, 0.40, 0.55, 0.65, 0.72, 0.78, 0.82, 0.85, 0.88, 0.92, 0.95};
  const int b = bucket(length);
  return (hits_[b] + 2.0 * prior[b]) / (trials_[b] + 2.0);
}

void Reliability::record(int32_t length, bool hit) {
  constexpr double kMemory = 0.98;  // about fifty observations: texts change character
  const int b = bucket(length);
  hits_[b] = kMemory * hits_[b] + (hit ? 1.0 : 0.0);
  trials_[b] = kMemory * trials_[b] + 1.0;
}

SuffixAutomaton::SuffixAutomaton() : states_(1) {}

int32_t SuffixAutomaton::target(int32_t state, int32_t token) const {
  const auto it = edge_of_.find(edge_key(state, token));
  return it == edge_of_.end() ? -1 : edges_[it->second].target;
}

void SuffixAutomaton::connect(int32_t state, int32_t token, int32_t target) {
  const auto [it, fresh] = edge_of_.try_emplace(edge_key(state, token), int32_t(edges_.size()));
  if (!fresh) {
    edges_[it->second].target = target;
    return;
  }
  edges_.push_back({token, target, states_[state].first_edge});
  states_[state].first_edge = it->second;
}

int32_t SuffixAutomaton::clone(int32_t state, int32_t length) {
  const int32_t copy = int32_t(states_.size());
  states_.push_back({length, states_[state].link, states_[state].count, -1});
  for (int32_t e = states_[state].first_edge; e >= 0; e = edges_[e].next) connect(copy, edges_[e].token, edges_[e].target);
  return copy;
}

void SuffixAutomaton::append(int32_t token) {
  const int32_t fresh = int32_t(states_.size());
  states_.push_back({states_[last_].length + 1, 0, 0, -1});
  int32_t p = last_;
  for (; p >= 0 && target(p, token) < 0; p = states_[p].link) connect(p, token, fresh);
  if (p >= 0) {
    const int32_t q = target(p, token);
    if (states_[q].length == states_[p].length + 1) {
      states_[fresh].link = q;
    } else {
      const int32_t copy = clone(q, states_[p].length + 1);
      for (; p >= 0 && target(p, token) == q; p = states_[p].link) connect(p, token, copy);
      states_[q].link = states_[fresh].link = copy;
    }
  }
  last_ = fresh;
  int hops = 0;
  for (int32_t s = fresh; s > 0 && hops < kCountHops; s = states_[s].link, ++hops) ++states_[s].count;
  ++size_;
}

void SuffixAutomaton::extend(const int32_t* tokens, int64_t n) {
  for (int64_t i = 0; i < n; ++i) append(tokens[i]);
}

void SuffixAutomaton::end_document() { last_ = 0; }

SuffixAutomaton::Match SuffixAutomaton::self_match() const {
  const int32_t link = states_[last_].link;
  return link > 0 ? Match{link, states_[link].length} : Match{};
}

SuffixAutomaton::Match SuffixAutomaton::advance(Match m, int32_t token) const {
  while (true) {
    const int32_t next = target(m.state, token);
    if (next >= 0) return {next, std::min(m.length, states_[m.state].length) + 1};
    if (m.state == 0) return {};
    m.state = states_[m.state].link;
    m.length = states_[m.state].length;
  }
}

int SuffixAutomaton::predicts(Match m, int32_t token) const {
  int32_t best = -1, best_count = 0;
  for (int32_t e = states_[m.state].first_edge; e >= 0; e = edges_[e].next) {
    const int32_t count = states_[edges_[e].target].count;
    if (count > best_count || (count == best_count && edges_[e].token < best)) best = edges_[e].token, best_count = count;
  }
  return best < 0 ? -1 : best == token;
}

// Children of a context. The longest context gets the share that its reliability deserves, the rest goes to shorter ones.
void SuffixAutomaton::continuations(Match m, const Reliability& reliability, std::vector<Continuation>& out) const {
  out.clear();
  double left = 1.0;
  for (int level = 0; level <= kBackoff && m.state > 0; ++level) {
    const size_t known = out.size();
    int64_t total = 0;
    for (int32_t e = states_[m.state].first_edge; e >= 0; e = edges_[e].next) total += states_[edges_[e].target].count;
    if (total > 0) {
      const double weight = left * reliability(m.length);
      for (int32_t e = states_[m.state].first_edge; e >= 0; e = edges_[e].next) {
        const Edge& edge = edges_[e];
        const double share = weight * states_[edge.target].count / double(total);
        const auto seen = std::find_if(out.begin(), out.begin() + known, [&](const Continuation& c) { return c.token == edge.token; });
        if (seen != out.begin() + known) seen->share += share;
        else out.push_back({edge.token, edge.target, m.length + 1, share});
      }
      left -= weight;
    }
    m.state = states_[m.state].link;
    m.length = m.state >= 0 ? states_[m.state].length : 0;
  }
  std::sort(out.begin(), out.end(), [](const Continuation& a, const Continuation& b) { return a.share != b.share ? a.share > b.share : a.token < b.token; });
  if (out.size() > kMaxChildren) out.resize(kMaxChildren);
}

Draft SuffixAutomaton::propose(Match match, int32_t max_nodes, int32_t max_depth, double min_score, const Reliability& reliability) const {
  struct Candidate {
    double score;
    int32_t order, token, parent, depth;
    Match match;
    bool operator<(const Candidate& o) const { return score != o.score ? score < o.score : order > o.order; }
  };
  Draft draft;
  std::priority_queue<Candidate> heap;
  std::vector<Continuation> next;
  int32_t order = 0;
  const auto expand = [&](Match m, double score, int32_t parent, int32_t depth) {
    continuations(m, reliability, next);
    for (const Continuation& c : next)
      if (score * c.share >= min_score) heap.push({score * c.share, order++, c.token, parent, depth, {c.state, c.length}});
  };
  if (max_depth > 0) expand(match, 1.0, -1, 1);
  while (!heap.empty() && int32_t(draft.tokens.size()) < max_nodes) {
    const Candidate c = heap.top();
    heap.pop();
    const int32_t node = draft.add(c.token, c.parent, float(c.score));
    if (c.depth < max_depth) expand(c.match, c.score, node, c.depth + 1);
  }
  return draft;
}

}  // namespace fastdecode
