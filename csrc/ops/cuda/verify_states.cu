#include "fastdecode/verify_states.cuh"

#include "fastdecode/launch.cuh"
#include "ops/cuda/launchers.h"

namespace fastdecode {
namespace cuda {

void draft_states(const DraftStatesArgs& a, void* stream) { launch("draft_states", draft_states_kernel, a.batch * a.depth, 128, stream, a); }
void verify_states(const VerifyStatesArgs& a, void* stream) { launch("verify_states", verify_states_kernel, a.batch, 128, stream, a); }

}  // namespace cuda
}  // namespace fastdecode
