#include "structures/prompt_lookup.h"

#include <algorithm>
#include <cstring>

#include "structures/draft_tree.h"

namespace fastdecode {
namespace {

// Positions just after an earlier occurrence of the last n tokens, earliest first.
std::vector<int64_t> occurrences(const int32_t* text, int64_t length, int32_t n) {
  std::vector<int64_t> result;
  const int32_t* suffix = text + length - n;
  for (int64_t end = n; end < length; ++end)
    if (text[end - 1] == suffix[n - 1] && std::memcmp(text + end - n, suffix, n * sizeof(int32_t)) == 0) result.push_back(end);
  return result;
}

}  // namespace

Draft prompt_lookup(const int32_t* text, int64_t length, int32_t max_ngram, int32_t num_tokens, int32_t branches, int32_t max_nodes) {
  DraftMerger merger;
  int32_t used = 0;
  float score = 0.5f;  // of the first chain; each alternative counts half of the one before
  for (int32_t n = int32_t(std::min<int64_t>(max_ngram, length - 1)); n >= 1 && used < branches; --n) {
    std::vector<int64_t> found = occurrences(text, length, n);
    if (found.size() > 1) std::reverse(found.begin() + 1, found.end());
    for (size_t i = 0; i < found.size() && used < branches; ++i) {
      const int64_t count = std::min<int64_t>(num_tokens, length - found[i]);
      if (merger.add_chain(text + found[i], count, score)) ++used, score *= 0.5f;
    }
  }
  return merger.best(max_nodes);
}

}  // namespace fastdecode
