#define FD_SIMD_NAMESPACE scalar
#include "ops/cpu/simd_scalar.h"
#include "ops/cpu/residual_body.h"

#include "ops/kernel.h"

namespace fastdecode {

#define FD_LEVELS(fn) scalar::fn, FD_X86(avx2::fn), FD_X86(avx512::fn)
static const Kernel<double (*)(const ResidualRow&)> mass_kernel("residual_mass", FD_LEVELS(residual_mass));
static const Kernel<int32_t (*)(const ResidualRow&, const Stream&)> race_kernel("race_row", FD_LEVELS(race_row));
static const Kernel<void (*)(RejectionState&)> reject_kernel("reject_draw", FD_LEVELS(reject_draw));
static const Kernel<int32_t (*)(const double*, int64_t, const Stream&)> weights_kernel("race_weights", FD_LEVELS(race_weights));
#undef FD_LEVELS

double residual_mass(const ResidualRow& row) { return mass_kernel.get()(row); }
int32_t race_row(const ResidualRow& row, const Stream& stream) { return race_kernel.get()(row, stream); }
void reject_draw(RejectionState& state) { reject_kernel.get()(state); }
int32_t race_weights(const double* weights, int64_t vocab, const Stream& stream) { return weights_kernel.get()(weights, vocab, stream); }

int32_t race_residual(const ResidualRow& row, const Stream& stream) {
  const bool vanished = row.q && residual_mass(row) < kNoMass;
  return race_row(vanished ? ResidualRow{row.p, nullptr, 1, row.vocab} : row, stream);
}

}  // namespace fastdecode
