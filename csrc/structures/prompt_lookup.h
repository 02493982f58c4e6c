// Prompt lookup (Saxena 2023; the rule of transformers): continue the text as it went on after an earlier occurrence of its
// own last tokens.
#pragma once

#include <cstdint>

#include "structures/draft.h"

namespace fastdecode {

// Longest n-gram first, n = min(max_ngram, length-1) .. 1. The earliest occurrence of the longest matching n-gram gives the
// first chain; up to branches-1 further occurrences (latest first, then shorter n-grams) give alternatives.
Draft prompt_lookup(const int32_t* text, int64_t length, int32_t max_ngram, int32_t num_tokens, int32_t branches, int32_t max_nodes);

}  // namespace fastdecode
