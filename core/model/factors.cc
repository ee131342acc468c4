// Latent factors out of a plan file, each checked against the shape of the model.
#include "core/base/crc32c.h"
#include "core/model/factors.h"

#include <cmath>

#include "core/model/plan.h"
#include "core/model/text.h"
#include "kernels/ops.h"

namespace kvg {
namespace {

constexpr uint32_t kRankStep = 8;       // latents are rows of a side, whose sizes come in eights
constexpr double kNormTolerance = 0.02;  // of the rows of U^T; fp16 and bf16 stay well below

absl::StatusOr<LatentSide> ReadSide(const PlanFile& file, const Shape& shape, uint32_t layer,
                                    const char* name) {
  const std::string prefix = absl::StrCat("layers.", layer, ".", name, ".");
  const std::string tensor = prefix + "latent";
  const std::vector<uint64_t>* const found = file.ShapeOf(tensor);
  if (found == nullptr) {
    return InvalidError("the plan file has no tensor ", Quoted(tensor), ", and the recipe of layer ",
                        layer, " has ", name, ".latent=plan; choose layers that the file is for");
  }
  const bool fits = found->size() == 4 && (*found)[0] >= 1 && (*found)[0] <= shape.kv_heads &&
                    (*found)[1] == shape.kv_heads / (*found)[0] &&
                    shape.kv_heads % (*found)[0] == 0 && (*found)[3] == shape.head_dim;
  if (!fits) {
    return InvalidError("tensor ", Quoted(tensor), " of the plan file is for another model: it is "
                        "to be [groups, heads of a group, rank, head_dim] with ", shape.kv_heads,
                        " heads in all and head_dim ", shape.head_dim);
  }
  LatentSide side;
  side.groups = static_cast<uint32_t>((*found)[0]);
  side.head_group = static_cast<uint32_t>((*found)[1]);
  const uint64_t full = uint64_t{side.head_group} * shape.head_dim;
  const uint64_t rank = (*found)[2];
  if (rank < kRankStep || rank > full || rank % kRankStep != 0) {
    return InvalidError("tensor ", Quoted(tensor), " of the plan file has rank ", rank,
                        "; it may be a multiple of ", kRankStep, " up to ", full,
                        ", the size of a group");
  }
  side.rank = static_cast<uint32_t>(rank);
  side.split = LatentSplit(side.rank);
  absl::StatusOr<std::vector<float>> up = file.Floats(tensor, *found);
  KVG_RETURN_IF_ERROR(up.status());
  const uint64_t dim = shape.head_dim;
  for (uint64_t group = 0; group < side.groups; ++group) {
    for (uint64_t r = 0; r < rank; ++r) {
      double norm = 0;
      for (uint64_t h = 0; h < side.head_group; ++h) {
        const float* const row = up->data() + ((group * side.head_group + h) * rank + r) * dim;
        for (uint64_t d = 0; d < dim; ++d) {
          norm += static_cast<double>(row[d]) * static_cast<double>(row[d]);
        }
      }
      if (!(std::abs(std::sqrt(norm) - 1) <= kNormTolerance)) {
        return InvalidError("row ", r, " of group ", group, " of tensor ", Quoted(tensor),
                            " has the norm ", std::sqrt(norm),
                            "; the rows of a group are to be orthonormal");
      }
    }
  }
  side.up = *std::move(up);
  const std::string bias = prefix + "bias";
  if (file.ShapeOf(bias) != nullptr) {
    absl::StatusOr<std::vector<float>> values = file.Floats(bias, {shape.kv_heads, shape.head_dim});
    KVG_RETURN_IF_ERROR(values.status());
    side.bias = *std::move(values);
  }
  return side;
}

absl::StatusOr<Rotary> ReadRotary(const PlanFile& file, const Shape& shape) {
  Rotary rotary;
  const std::string* const style = file.Text("rope");
  if (style == nullptr || (*style != "none" && *style != "half" && *style != "interleaved")) {
    return InvalidError("the plan file has latent keys and no text rope that says how they are "
                        "rotated; it may be none, half or interleaved");
  }
  if (*style == "none") return rotary;
  rotary.interleaved = *style == "interleaved";
  const std::vector<uint64_t>* const found = file.ShapeOf("rope.frequencies");
  const uint64_t count = found == nullptr || found->size() != 1 ? 0 : (*found)[0];
  if (count < 1 || count > shape.head_dim / 2) {
    return InvalidError("the plan file needs a tensor rope.frequencies of 1 to ",
                        shape.head_dim / 2, " numbers, half of head_dim");
  }
  absl::StatusOr<std::vector<double>> frequencies = file.Doubles("rope.frequencies", {count});
  KVG_RETURN_IF_ERROR(frequencies.status());
  rotary.frequencies = *std::move(frequencies);
  for (uint32_t step = 0; step < Rotary::kRun; ++step) {
    for (const double frequency : rotary.frequencies) {
      rotary.cosine.push_back(std::cos(step * frequency));
      rotary.sine.push_back(std::sin(step * frequency));
    }
  }
  return rotary;
}

}  // namespace

uint32_t LatentSplit(uint32_t rank) {
  uint32_t split = (rank + ops::kMaxHeadDim - 1) / ops::kMaxHeadDim;
  while (rank % (split * kRankStep) != 0) ++split;
  return split;
}

uint32_t LatentSide::Checksum() const {
  const uint32_t sizes[] = {groups, head_group, rank, split};
  uint32_t crc = Crc32c(sizes, sizeof(sizes));
  crc = ExtendCrc32c(crc, up.data(), up.size() * sizeof(float));
  return ExtendCrc32c(crc, bias.data(), bias.size() * sizeof(float));
}

absl::StatusOr<Factors> ReadFactors(const PlanFile& file, const Plan& plan) {
  const Shape& shape = plan.shape();
  Factors factors;
  factors.k.resize(shape.layers);
  factors.v.resize(shape.layers);
  bool latent_keys = false;
  for (uint32_t layer = 0; layer < shape.layers; ++layer) {
    const Recipe& recipe = plan.recipe(layer);
    const auto read = [&](const SideRecipe& side, const char* name, LatentSide& to) {
      if (side.latent == 0) return absl::OkStatus();
      absl::StatusOr<LatentSide> found = ReadSide(file, shape, layer, name);
      if (found.ok()) to = *std::move(found);
      return found.status();
    };
    KVG_RETURN_IF_ERROR(read(recipe.k, "k", factors.k[layer]));
    KVG_RETURN_IF_ERROR(read(recipe.v, "v", factors.v[layer]));
    latent_keys = latent_keys || recipe.k.latent != 0;
  }
  if (latent_keys) {
    absl::StatusOr<Rotary> rotary = ReadRotary(file, shape);
    KVG_RETURN_IF_ERROR(rotary.status());
    factors.rotary = *std::move(rotary);
  }
  return factors;
}

}  // namespace kvg
