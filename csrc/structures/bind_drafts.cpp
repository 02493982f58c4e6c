// Python names of the drafting structures. A draft crosses the border as three numpy arrays: tokens, parents, scores.
#include "structures/bind_drafts.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>

#include "ops/cpu/verify_tree_greedy.h"
#include "structures/draft_tree.h"
#include "structures/dynamic_tree.h"
#include "structures/prompt_lookup.h"
#include "structures/suffix_predictor.h"
#include "structures/trigram_predictor.h"

namespace py = pybind11;

namespace fastdecode {
namespace {

using Ids = py::array_t<int32_t, py::array::c_style>;
using Scores = py::array_t<float, py::array::c_style>;
using Unlocked = py::gil_scoped_release;

template <class T>
py::array_t<T> to_numpy(const std::vector<T>& v) {
  return py::array_t<T>(py::ssize_t(v.size()), v.data());
}

py::tuple to_tuple(const Draft& d) { return py::make_tuple(to_numpy(d.tokens), to_numpy(d.parents), to_numpy(d.scores)); }

Draft from_arrays(const Ids& tokens, const Ids& parents, const Scores& scores) {
  if (parents.size() != tokens.size() || scores.size() != tokens.size())
    throw std::invalid_argument("a draft's tokens, parents and scores must have equal length, got " + std::to_string(tokens.size()) + ", " + std::to_string(parents.size()) + " and " + std::to_string(scores.size()));
  Draft d;
  for (py::ssize_t i = 0; i < tokens.size(); ++i) {
    if (parents.at(i) < -1 || parents.at(i) >= i)
      throw std::invalid_argument("parents[" + std::to_string(i) + "] = " + std::to_string(parents.at(i)) + " is not -1 or an earlier node: order a draft topologically");
    d.add(tokens.at(i), parents.at(i), scores.at(i));
  }
  return d;
}

py::tuple merge(const std::vector<std::tuple<Ids, Ids, Scores>>& drafts, int32_t max_nodes) {
  DraftMerger merger;
  for (const auto& [tokens, parents, scores] : drafts) merger.add(from_arrays(tokens, parents, scores));
  return to_tuple(merger.best(max_nodes));
}

// Drafts of a batch -> padded arrays [B, N] (+ ancestors [B, N, W]) with the pending token as node 0.
py::dict tree_arrays(const Ids& pending, const std::vector<std::tuple<Ids, Ids, Scores>>& drafts) {
  if (pending.size() != py::ssize_t(drafts.size()))
    throw std::invalid_argument("pending has " + std::to_string(pending.size()) + " rows, drafts " + std::to_string(drafts.size()));
  std::vector<Draft> rows;
  int64_t nodes = 1;
  for (const auto& [tokens, parents, scores] : drafts) {
    rows.push_back(from_arrays(tokens, parents, scores));
    nodes = std::max<int64_t>(nodes, 1 + int64_t(rows.back().tokens.size()));
  }
  const int64_t batch = pending.size(), words = (nodes + 63) / 64;
  const auto ids = [&] { return py::array_t<int32_t>({batch, nodes}); };
  py::array_t<int32_t> tokens = ids(), parents = ids(), depth = ids(), first = ids(), sibling = ids(), count({batch});
  py::array_t<int64_t> ancestors({batch, nodes, words});
  for (int64_t b = 0; b < batch; ++b) {
    write_tree_row(pending.at(b), rows[b], nodes, words,
                   {tokens.mutable_data(b), parents.mutable_data(b), depth.mutable_data(b), first.mutable_data(b), sibling.mutable_data(b), ancestors.mutable_data(b)});
    count.mutable_at(b) = int32_t(rows[b].tokens.size()) + 1;
  }
  using namespace py::literals;
  return py::dict("tokens"_a = tokens, "parents"_a = parents, "depth"_a = depth, "first_child"_a = first, "next_sibling"_a = sibling, "ancestors"_a = ancestors, "num_nodes"_a = count);
}

// Row by row, the nodes from the root downwards that carry the target's `choice` [B, N], and its token after the last of them.
std::vector<std::pair<std::vector<int32_t>, int32_t>> follow_trees(const Ids& tokens, const Ids& first_child, const Ids& next_sibling, const Ids& choice) {
  if (tokens.ndim() != 2 || !tokens.size() || first_child.size() != tokens.size() || next_sibling.size() != tokens.size() || choice.size() != tokens.size())
    throw std::invalid_argument("tokens, first_child, next_sibling and choice must be [B, N] with N > 0");
  const int64_t batch = tokens.shape(0), nodes = tokens.shape(1);
  for (int64_t i = 0; i < batch * nodes; ++i)  // links lead to later nodes, so that every walk ends
    for (const int32_t link : {first_child.data()[i], next_sibling.data()[i]})
      if (link != -1 && (link <= i % nodes || link >= nodes)) throw std::invalid_argument("node " + std::to_string(i % nodes) + " of row " + std::to_string(i / nodes) + " is linked to " + std::to_string(link) + ", which is neither -1 nor a later node; pass the arrays of a DraftTree");
  std::vector<int32_t> path(batch * nodes), lengths(batch), next(batch);
  verify_tree_greedy({tokens.data(), first_child.data(), next_sibling.data(), choice.data(), batch, nodes, path.data(), lengths.data(), next.data()});
  std::vector<std::pair<std::vector<int32_t>, int32_t>> kept;
  for (int64_t b = 0; b < batch; ++b) kept.push_back({{path.begin() + b * nodes, path.begin() + b * nodes + lengths[b] + 1}, next[b]});
  return kept;
}

// Lowest and highest token, and tokens on the longest path, of a draft that is not empty; what is no tree is found out later.
py::tuple draft_extent(const Ids& tokens, const Ids& parents) {
  if (!tokens.size() || parents.size() != tokens.size()) throw std::invalid_argument("a draft's tokens and parents must have equal length above 0, got " + std::to_string(tokens.size()) + " and " + std::to_string(parents.size()));
  const auto [lowest, highest] = std::minmax_element(tokens.data(), tokens.data() + tokens.size());
  std::vector<int32_t> depth;
  for (py::ssize_t i = 0; i < parents.size(); ++i) {
    const int32_t parent = parents.at(i);
    depth.push_back(parent >= 0 && parent < i ? depth[parent] + 1 : 1);
  }
  return py::make_tuple(*lowest, *highest, *std::max_element(depth.begin(), depth.end()));
}

}  // namespace

void bind_drafts(py::module_& m) {
  m.def("merge_drafts", &merge, py::arg("drafts"), py::arg("max_nodes"));
  m.def("tree_arrays", &tree_arrays);
  m.def("follow_trees", &follow_trees);
  m.def("draft_extent", &draft_extent);
  m.def("prompt_lookup", [](const Ids& text, int32_t max_ngram, int32_t num_tokens, int32_t branches, int32_t max_nodes) {
    Draft d;
    {
      const int32_t* data = text.data();
      const int64_t length = text.size();
      Unlocked unlocked;
      d = prompt_lookup(data, length, max_ngram, num_tokens, branches, max_nodes);
    }
    return to_tuple(d);
  });
  py::class_<SuffixAutomaton, std::shared_ptr<SuffixAutomaton>>(m, "SuffixAutomaton")
      .def(py::init<>())
      .def("add_document", [](SuffixAutomaton& a, const Ids& tokens) { const int32_t* data = tokens.data(); const int64_t n = tokens.size(); Unlocked unlocked; a.extend(data, n); a.end_document(); })
      .def("__len__", &SuffixAutomaton::size);
  py::class_<SuffixPredictor>(m, "SuffixPredictor")
      .def(py::init([](std::shared_ptr<SuffixAutomaton> corpus) { return std::make_unique<SuffixPredictor>(std::move(corpus)); }), py::arg("corpus") = nullptr)
      .def("extend", [](SuffixPredictor& s, const Ids& tokens) { const int32_t* data = tokens.data(); const int64_t n = tokens.size(); Unlocked unlocked; s.extend(data, n); })
      .def("propose", [](const SuffixPredictor& s, int32_t max_nodes, int32_t max_depth, double min_score) {
        Draft d;
        {
          Unlocked unlocked;
          d = s.propose(max_nodes, max_depth, min_score);
        }
        return to_tuple(d);
      })
      .def("__len__", &SuffixPredictor::size);
  py::class_<DynamicTree>(m, "DynamicTree")
      .def(py::init<int32_t, float, float>(), py::arg("width"), py::arg("min_score"), py::arg("open_score") = 0.0f)
      .def("add", [](DynamicTree& t, const Ids& ids, const Scores& scores, const Ids& vocabulary) {
        const int64_t parents = t.levels() ? int64_t(t.open_scores().size()) : 1;
        if (ids.size() != scores.size() || (parents ? ids.size() % parents : ids.size())) throw std::invalid_argument("ids and scores must be [" + std::to_string(parents) + ", k]");
        t.add(ids.data(), scores.data(), parents ? ids.size() / parents : 0, vocabulary.data(), vocabulary.size());
      })
      .def("open", [](DynamicTree& t) { return to_numpy(t.open()); })
      .def_property_readonly("open_scores", [](const DynamicTree& t) { return to_numpy(t.open_scores()); })
      .def_property_readonly("promised", &DynamicTree::promised)
      .def_property_readonly("levels", &DynamicTree::levels)
      .def_property_readonly("tokens", [](const DynamicTree& t) { return to_numpy(t.tokens()); })
      .def_property_readonly("parents", [](const DynamicTree& t) { return to_numpy(t.parents()); })
      .def("best", [](const DynamicTree& t, int32_t max_nodes) {
        DraftMerger merger;
        merger.add(t.candidates());
        return to_tuple(merger.best(max_nodes));
      });
  py::class_<TrigramPredictor>(m, "TrigramPredictor")
      .def(py::init([](int32_t iterations, int64_t pairs) {
             TrigramSettings settings;
             settings.iterations = iterations;
             settings.pairs = pairs;
             return TrigramPredictor(settings);
           }),
           py::arg("iterations"), py::arg("pairs"))
      .def("learn", [](TrigramPredictor& t, const Ids& tokens) { const int32_t* data = tokens.data(); const int64_t n = tokens.size(); Unlocked unlocked; t.learn(data, n); })
      .def("add", [](TrigramPredictor& t, const Ids& rows, const Scores& weights) {
        if (rows.size() != 3 * weights.size()) throw std::invalid_argument("rows must be [N, 3] for N weights");
        const int32_t* row = rows.data();
        for (py::ssize_t i = 0; i < weights.size(); ++i, row += 3) t.add(row[0], row[1], row[2], weights.at(i));
      })
      .def("propose", [](const TrigramPredictor& t, int32_t first, int32_t second, int32_t max_nodes, int32_t max_depth, double min_score, uint64_t seed) {
        Draft d;
        {
          Unlocked unlocked;
          d = t.propose(first, second, max_nodes, max_depth, min_score, seed);
        }
        return to_tuple(d);
      })
      .def("dump", [](const TrigramPredictor& t) {
        std::vector<int32_t> tokens;
        std::vector<float> weights;
        t.dump(&tokens, &weights);
        return py::make_tuple(to_numpy(tokens), to_numpy(weights));
      })
      .def("__len__", &TrigramPredictor::size);
}

}  // namespace fastdecode
