// The vocabulary-wide passes of the verification kernels; a whole block works on one row and every thread gets the result.
// Weights and draws as in ops/cpu/residual.h.
#pragma once

#include <cfloat>

#include "fastdecode/block.cuh"
#include "fastdecode/race.cuh"

namespace fastdecode {

constexpr double kVanished = 1e-12;  // kNoMass of ops/cpu/residual.h

struct MergeRace {
  FD_HD Race operator()(const Race& a, const Race& b) const { return race_merge(a, b); }
};

// Weights max(scale * p - q, 0), p itself where q is null.
struct ResidualWeight {
  const float *p, *q;
  double scale;
  FD_HD double operator()(int64_t v) const { return q ? scale * double(p[v]) - double(q[v]) : double(p[v]); }
};

struct StoredWeight {
  const double* weights;
  FD_HD double operator()(int64_t v) const { return weights[v]; }
};

// What the passes need of a block.
struct RowScratch {
  SharedPtr<Race> race;     // [32]
  SharedPtr<double> sum;    // [32]
};

// Token drawn in proportion to the weights of a row; -1 as in race_row.
template <class Weight>
FD_DEVICE int32_t block_race(const Weight& weight, int64_t vocab, const Stream& stream, const RowScratch& scratch) {
  Race race = race_start();
  for (int64_t v = 4 * int64_t(thread_index()); v < vocab; v += 4 * int64_t(block_size())) {
    double w[4];
    for (int i = 0; i < 4; ++i) w[i] = v + i < vocab ? weight(v + i) : 0;
    race_enter4(race, stream, uint32_t(v >> 2), w);
  }
  return race_result(block_reduce(race, scratch.race, MergeRace()));
}

FD_DEVICE double block_mass(const ResidualWeight& weight, int64_t vocab, const RowScratch& scratch) {
  double mass = 0;
  for (int64_t v = thread_index(); v < vocab; v += block_size()) {
    const double w = weight(v);
    mass += w <= 0 ? 0 : w;
  }
  return block_reduce(mass, scratch.sum, Add());
}

FD_DEVICE int32_t block_race_residual(const ResidualWeight& weight, int64_t vocab, const Stream& stream, const RowScratch& scratch) {
  if (weight.q && block_mass(weight, vocab, scratch) < kVanished) return block_race(ResidualWeight{weight.p, nullptr, 1}, vocab, stream, scratch);
  return block_race(weight, vocab, stream, scratch);
}

}  // namespace fastdecode
