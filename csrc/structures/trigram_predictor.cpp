#include "structures/trigram_predictor.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace fastdecode {
namespace {

constexpr double kFirstBound = 32, kSecondBound = 8;  // c1 and c2 of PUCT
constexpr float kUnseen = 0.04f;                      // weight of everything that was never seen after a pair

uint64_t next_random(uint64_t* state) {  // splitmix64
  uint64_t z = *state += 0x9E3779B97F4A7C15ull;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ z >> 27) * 0x94D049BB133111EBull;
  return z ^ z >> 31;
}

struct Node {
  int32_t first, token, parent, depth;
  float weight, score;
  double value = 0;  // sum of what the searches through the node brought
  int32_t visits = 0, children = -1, count = 0;  // children lie side by side
};

using Successors = std::vector<TrigramPredictor::Successor>;

float total(const Successors& list) {
  return std::accumulate(list.begin(), list.end(), kUnseen, [](float sum, const TrigramPredictor::Successor& s) { return sum + s.weight; });
}

// The search tree of one draft; node 0 is the pending token.
class Search {
 public:
  Search(const TrigramPredictor& map, int32_t first, int32_t second, int32_t max_depth, double min_score, uint64_t seed) : map_(map), depth_(max_depth), min_score_(min_score), random_(seed) {
    nodes_.push_back({first, second, -1, 0, 0, 1});
  }

  void run(int32_t iterations) {
    for (int32_t i = 0; i < iterations; ++i) {
      int32_t node = 0;
      while (nodes_[node].count > 0) node = best_child(node);
      if (nodes_[node].visits > 0 || node == 0) expand(node);
      if (nodes_[node].count > 0) node = nodes_[node].children;
      else if (node == 0) return;  // nothing is known
      back_up(node, 1 + rollout(node));
    }
  }

  // The most visited nodes; a parent is visited at least as often as its children, and stands before them.
  Draft most_visited(int32_t max_nodes) const {
    std::vector<int32_t> order;
    for (int32_t i = 1; i < int32_t(nodes_.size()); ++i)
      if (nodes_[i].visits > 0) order.push_back(i);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return nodes_[a].visits > nodes_[b].visits; });
    if (int64_t(order.size()) > max_nodes) order.resize(std::max(0, max_nodes));
    std::sort(order.begin(), order.end());
    std::vector<int32_t> renamed(nodes_.size(), -1);
    Draft draft;
    for (int32_t i : order) renamed[i] = draft.add(nodes_[i].token, renamed[nodes_[i].parent], nodes_[i].score);
    return draft;
  }

 private:
  int32_t best_child(int32_t parent) const {
    const Node& above = nodes_[parent];
    const double bound = (kFirstBound + std::log((above.visits + kSecondBound + 1) / kSecondBound)) * std::sqrt(double(above.visits));
    int32_t best = above.children;
    double highest = -1;
    for (int32_t i = above.children; i < above.children + above.count; ++i) {
      const Node& n = nodes_[i];
      if (n.visits == 0) return i;
      const double promise = n.value / n.visits + bound * n.weight / (1 + n.visits);
      if (promise > highest) highest = promise, best = i;
    }
    return best;
  }

  void expand(int32_t parent) {
    const Node above = nodes_[parent];
    const Successors* list = above.depth < depth_ ? map_.successors(above.first, above.token) : nullptr;
    if (!list || above.count > 0) return;
    const float sum = total(*list);
    const int32_t begin = int32_t(nodes_.size());
    for (const auto& s : *list) {
      const float score = above.score * s.weight / sum;
      if (score >= min_score_) nodes_.push_back({above.token, s.token, parent, above.depth + 1, s.weight, score});
    }
    nodes_[parent].count = int32_t(nodes_.size()) - begin;
    nodes_[parent].children = begin;
  }

  // Weight of a random continuation of a node, down to the depth of the search.
  double rollout(int32_t node) {
    double sum = 0;
    int32_t first = nodes_[node].first, token = nodes_[node].token;
    for (int32_t up = node; up > 0; up = nodes_[up].parent) sum += nodes_[up].weight;
    for (int32_t depth = nodes_[node].depth; depth < depth_; ++depth) {
      const Successors* list = map_.successors(first, token);
      if (!list) break;
      double at = double(next_random(&random_) >> 11) * 0x1p-53 * double(total(*list) - kUnseen);
      auto s = list->begin();
      while (s + 1 < list->end() && at >= double(s->weight)) at -= double(s++->weight);
      sum += s->weight;
      first = token;
      token = s->token;
    }
    return sum;
  }

  void back_up(int32_t node, double value) {
    for (; node >= 0; node = nodes_[node].parent) {
      nodes_[node].value += value;
      ++nodes_[node].visits;
    }
  }

  const TrigramPredictor& map_;
  int32_t depth_;
  double min_score_;
  uint64_t random_;
  std::vector<Node> nodes_;
};

}  // namespace

void TrigramPredictor::learn(const int32_t* tokens, int64_t n) {
  for (int64_t i = 2; i < n; ++i) add(tokens[i - 2], tokens[i - 1], tokens[i], settings_.step);
}

void TrigramPredictor::add(int32_t first, int32_t second, int32_t token, float weight) {
  const auto [it, fresh] = map_.try_emplace(key(first, second));
  if (fresh) {
    order_.push_back(it->first);
    if (int64_t(order_.size()) > settings_.pairs) {
      map_.erase(order_.front());
      order_.pop_front();
    }
  }
  Successors& list = map_[key(first, second)];
  auto s = std::find_if(list.begin(), list.end(), [&](const Successor& known) { return known.token == token; });
  if (s == list.end()) {
    if (int64_t(list.size()) < settings_.successors) list.push_back({token, 0}), s = list.end() - 1;
    else *(s = std::min_element(list.begin(), list.end(), [](const Successor& a, const Successor& b) { return a.weight < b.weight; })) = {token, 0};
  }
  s->weight = std::min(settings_.most, s->weight + weight);
}

const Successors* TrigramPredictor::successors(int32_t first, int32_t second) const {
  const auto it = map_.find(key(first, second));
  return it == map_.end() ? nullptr : &it->second;
}

Draft TrigramPredictor::propose(int32_t first, int32_t second, int32_t max_nodes, int32_t max_depth, double min_score, uint64_t seed) const {
  Search search(*this, first, second, max_depth, min_score, seed);
  search.run(settings_.iterations);
  return search.most_visited(max_nodes);
}

void TrigramPredictor::dump(std::vector<int32_t>* tokens, std::vector<float>* weights) const {
  for (uint64_t pair : order_) {
    for (const Successor& s : map_.at(pair)) {
      tokens->insert(tokens->end(), {int32_t(pair >> 32), int32_t(uint32_t(pair)), s.token});
      weights->push_back(s.weight);
    }
  }
}

}  // namespace fastdecode
