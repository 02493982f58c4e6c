// The vocabulary-wide passes that the verification operations share, one row at a time.
#pragma once

#include <cstdint>

#include "fastdecode/philox.cuh"

namespace fastdecode {

// Weights max(scale * p - q, 0) in double precision; q null: the weights are p itself.
struct ResidualRow {
  const float* p;  // [V]
  const float* q;  // [V] or null
  double scale;
  int64_t vocab;
};

// A residual below this mass exists through rounding only; p takes its place (2211.17192 leaves the case open).
constexpr double kNoMass = 1e-12;

double residual_mass(const ResidualRow& row);

// Token drawn in proportion to the weights; -1 if a weight is NaN or infinite or none is positive.
int32_t race_row(const ResidualRow& row, const Stream& stream);

// The same draw with p in the place of a residual without mass.
int32_t race_residual(const ResidualRow& row, const Stream& stream);

// Weights of a node during recursive rejection. Negative: the token was drawn and is out of the law.
struct RejectionState {
  double* weights;        // [V]
  const float* q;         // [V] law of the draws; null: the remaining draws count as point masses
  double mass, draft_mass;  // of weights, and of q over the tokens that are still in
  int64_t vocab;
};

// weights <- max(weights / mass - q / draft_mass, 0), and the masses of what remains.
void reject_draw(RejectionState& state);

// Token drawn in proportion to double weights; -1 as in race_row.
int32_t race_weights(const double* weights, int64_t vocab, const Stream& stream);

}  // namespace fastdecode
