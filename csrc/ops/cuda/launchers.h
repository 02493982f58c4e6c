// The CUDA operations: as their CPU namesakes, queued on a stream (a cudaStream_t). Throw std::runtime_error when a launch fails.
#pragma once

#include "ops/cpu/active_set.h"
#include "ops/cpu/adaptive_block_size.h"
#include "ops/cpu/kv_compact.h"
#include "ops/cpu/kv_write.h"
#include "ops/cpu/process_probs.h"
#include "ops/cpu/transport.h"
#include "ops/cpu/tree_attention.h"
#include "ops/cpu/tree_expand.h"
#include "ops/cpu/unmask_commit.h"
#include "ops/cpu/verify_chain.h"
#include "ops/cpu/verify_states.h"
#include "ops/cpu/verify_tree_greedy.h"
#include "ops/cpu/verify_tree_point.h"
#include "ops/cpu/verify_tree_recursive.h"
#include "ops/cpu/vocab_stats.h"

namespace fastdecode {
namespace cuda {

void active_set(const ActiveSetArgs& args, void* stream);
void adaptive_block_size(const AdaptiveBlockSizeArgs& args, void* stream);
void draft_states(const DraftStatesArgs& args, void* stream);
void kv_compact(const KvCompactArgs& args, void* stream);
void kv_write(const KvWriteArgs& args, void* stream);
void process_probs(const ProcessProbsArgs& args, void* stream);
void transport_plan(const TransportPlanArgs& args, void* stream);
void tree_attention(const TreeAttentionArgs& args, void* stream);
void tree_expand(const TreeExpandArgs& args, void* stream);
void unmask_commit(const UnmaskCommitArgs& args, void* stream);
void verify_block(const VerifyChainArgs& args, void* stream);
void verify_chain(const VerifyChainArgs& args, void* stream);
void verify_states(const VerifyStatesArgs& args, void* stream);
void verify_tree_greedy(const VerifyTreeGreedyArgs& args, void* stream);
void verify_tree_point(const VerifyTreePointArgs& args, void* stream);
void verify_tree_recursive(const VerifyTreeRecursiveArgs& args, void* stream);
void verify_tree_transport(const VerifyTreeTransportArgs& args, void* stream);
void verify_tree_transport_block(const VerifyTreeTransportArgs& args, void* stream);
void vocab_stats(const VocabStatsArgs& args, void* stream);

}  // namespace cuda
}  // namespace fastdecode
