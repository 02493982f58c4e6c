#include "ops/cpu/residual.h"

#include "fastdecode/race.cuh"
#include "ops/cpu/residual_isa.h"
#include "ops/kernel.h"

namespace fastdecode {
namespace scalar {

static double weight(const ResidualRow& row, int64_t v) { return row.q ? row.scale * row.p[v] - row.q[v] : row.p[v]; }

double residual_mass(const ResidualRow& row) {
  double mass = 0;
  for (int64_t v = 0; v < row.vocab; ++v) {
    const double w = weight(row, v);
    mass += w <= 0 ? 0 : w;  // NaN stays in the sum
  }
  return mass;
}

int32_t race_row(const ResidualRow& row, const Stream& stream) {
  Race race = race_start();
  for (int64_t v = 0; v < row.vocab; v += 4) {
    double w[4];
    for (int i = 0; i < 4; ++i) w[i] = v + i < row.vocab ? weight(row, v + i) : 0;
    race_enter4(race, stream, uint32_t(v >> 2), w);
  }
  return race_result(race);
}

void reject_draw(RejectionState& state) {
  double mass = 0, draft_mass = 0;
  for (int64_t v = 0; v < state.vocab; ++v) {
    if (state.weights[v] < 0) continue;
    const double q = state.q ? state.q[v] : 0;
    const double w = state.weights[v] / state.mass - q / state.draft_mass;
    state.weights[v] = w <= 0 ? 0 : w;
    mass += state.weights[v];
    draft_mass += q;
  }
  state.mass = mass;
  state.draft_mass = draft_mass;
}

int32_t race_weights(const double* weights, int64_t vocab, const Stream& stream) {
  Race race = race_start();
  for (int64_t v = 0; v < vocab; v += 4) {
    double w[4];
    for (int i = 0; i < 4; ++i) w[i] = v + i < vocab ? weights[v + i] : 0;
    race_enter4(race, stream, uint32_t(v >> 2), w);
  }
  return race_result(race);
}

}  // namespace scalar

static const Kernel<double (*)(const ResidualRow&)> mass_kernel("residual_mass", scalar::residual_mass);
static const Kernel<int32_t (*)(const ResidualRow&, const Stream&)> race_kernel("race_row", scalar::race_row, FD_X86(avx2::race_row), FD_X86(avx512::race_row));

double residual_mass(const ResidualRow& row) { return mass_kernel.get()(row); }
int32_t race_row(const ResidualRow& row, const Stream& stream) { return race_kernel.get()(row, stream); }
void reject_draw(RejectionState& state) { scalar::reject_draw(state); }
int32_t race_weights(const double* weights, int64_t vocab, const Stream& stream) { return scalar::race_weights(weights, vocab, stream); }

int32_t race_residual(const ResidualRow& row, const Stream& stream) {
  const bool vanished = row.q && residual_mass(row) < kNoMass;
  return race_row(vanished ? ResidualRow{row.p, nullptr, 1, row.vocab} : row, stream);
}

}  // namespace fastdecode
