#pragma once

#include <cstdint>

namespace fastdecode {

// A chain of drawn tokens against the target: how many to keep, and the token that follows.
struct VerifyChainArgs {
  const int32_t* tokens;  // [B, G]
  const float* q;         // [B, G, V] law each token was drawn from
  const float* p;         // [B, G + 1, V] the target's law before each token, and after the last
  const int32_t* num;     // [B] tokens of each row, at most G
  const int64_t* key;     // [B, 4]
  int64_t batch, length, vocab;
  int32_t* accept_len;  // [B]
  int32_t* next_token;  // [B] -1: the deciding row has no mass, or holds NaN or infinity
};

void verify_chain(const VerifyChainArgs& args);
void verify_block(const VerifyChainArgs& args);

}  // namespace fastdecode
