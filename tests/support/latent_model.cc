// Random orthonormal factors by Gram and Schmidt, and the maps spelt out.
#include "tests/support/latent_model.h"

#include <unistd.h>

#include <cstdio>
#include <filesystem>

namespace kvg::test {

TemporaryFile::TemporaryFile(const std::string& contents) {
  path_ = (std::filesystem::temp_directory_path() / "kvgear-plan-XXXXXX").string();
  const int file = mkstemp(path_.data());
  if (file < 0) throw std::runtime_error("no temporary file");
  const auto written = write(file, contents.data(), contents.size());
  close(file);
  if (written != static_cast<ssize_t>(contents.size())) throw std::runtime_error("not written");
}

TemporaryFile::~TemporaryFile() { std::remove(path_.c_str()); }

LatentModel::LatentModel(const LatentSpec& spec) : spec_(spec) {
  k_ = Orthonormal(spec.k_group, spec.k_rank, spec.seed);
  v_ = Orthonormal(spec.v_group, spec.v_rank, spec.seed + 1000);
  const size_t width = spec.shape.kv_dim();
  if (spec.bias) {
    Random random(spec.seed + 2000);
    for (size_t i = 0; i < width; ++i) {
      k_bias_.push_back(static_cast<float>(random.Normal()));
      v_bias_.push_back(static_cast<float>(random.Normal()));
    }
  }
  const uint32_t pairs = spec.pairs > 0 ? spec.pairs : spec.shape.head_dim / 2;
  for (uint32_t i = 0; spec.rope != Rope::kNone && i < pairs; ++i) {
    frequencies_.push_back(std::pow(10000.0, -static_cast<double>(i) / pairs));
  }
}

std::vector<float> LatentModel::Orthonormal(uint32_t group, uint32_t rank, uint64_t seed) const {
  const size_t dim = spec_.shape.head_dim, full = group * dim;
  std::vector<float> out(size_t{spec_.shape.kv_heads} * rank * dim);
  Random random(seed);
  for (size_t g = 0; g < spec_.shape.kv_heads / group; ++g) {
    std::vector<std::vector<double>> rows;
    while (rows.size() < rank) {
      std::vector<double> row(full);
      for (double& x : row) x = random.Normal();
      for (int again = 0; again < 2; ++again) {
        for (const std::vector<double>& other : rows) {
          double dot = 0;
          for (size_t i = 0; i < full; ++i) dot += row[i] * other[i];
          for (size_t i = 0; i < full; ++i) row[i] -= dot * other[i];
        }
      }
      double norm = 0;
      for (const double x : row) norm += x * x;
      for (double& x : row) x /= std::sqrt(norm);
      for (size_t i = 0; i < full; ++i) {
        const size_t head = g * group + i / dim;
        out[(head * rank + rows.size()) * dim + i % dim] = static_cast<float>(row[i]);
      }
      rows.push_back(std::move(row));
    }
  }
  return out;
}

PlanWriter LatentModel::Writer(const std::string& recipes) const {
  const Shape& shape = spec_.shape;
  PlanWriter writer(shape);
  writer.Text("recipes", recipes);
  writer.Text("fingerprint", "a model of tests");
  writer.Text("rope", spec_.rope == Rope::kNone   ? "none"
                      : spec_.rope == Rope::kHalf ? "half"
                                                  : "interleaved");
  if (!frequencies_.empty()) {
    writer.Doubles("rope.frequencies", {frequencies_.size()}, frequencies_);
  }
  for (uint32_t layer = 0; layer < shape.layers; ++layer) {
    const std::string prefix = absl::StrCat("layers.", layer, ".");
    writer.Floats(prefix + "k.latent",
                  {shape.kv_heads / spec_.k_group, spec_.k_group, spec_.k_rank, shape.head_dim}, k_);
    writer.Floats(prefix + "v.latent",
                  {shape.kv_heads / spec_.v_group, spec_.v_group, spec_.v_rank, shape.head_dim}, v_);
    if (!spec_.bias) continue;
    writer.Floats(prefix + "k.bias", {shape.kv_heads, shape.head_dim}, k_bias_);
    writer.Floats(prefix + "v.bias", {shape.kv_heads, shape.head_dim}, v_bias_);
  }
  return writer;
}

std::shared_ptr<const Plan> LatentModel::LoadPlan(const std::string& recipes) const {
  const TemporaryFile file(Writer(recipes).Contents());
  return Value(Plan::Load(file.path(), &spec_.shape, "", "a model of tests"));
}

std::unique_ptr<Cache> LatentModel::MakeCache(const std::string& recipes, uint32_t threads) const {
  return Value(Cache::Create(MakeRuntime(threads), LoadPlan(recipes)));
}

Tensor LatentModel::Down(ops::Side side, const Tensor& x) const {
  const size_t heads = group(side);
  Tensor z(x.tokens, x.heads / heads, rank(side));
  for (size_t t = 0; t < x.tokens; ++t) {
    for (size_t h = 0; h < x.heads; ++h) {
      for (size_t r = 0; r < z.dim; ++r) {
        for (size_t d = 0; d < x.dim; ++d) {
          z(t, h / heads, r) += Entry(side, h, r, d) * (x(t, h, d) - Bias(side, h, d));
        }
      }
    }
  }
  return z;
}

Tensor LatentModel::Up(ops::Side side, const Tensor& z) const {
  const size_t heads = group(side);
  Tensor x(z.tokens, z.heads * heads, spec_.shape.head_dim);
  for (size_t t = 0; t < x.tokens; ++t) {
    for (size_t h = 0; h < x.heads; ++h) {
      for (size_t d = 0; d < x.dim; ++d) {
        double sum = Bias(side, h, d);
        for (size_t r = 0; r < z.dim; ++r) sum += Entry(side, h, r, d) * z(t, h / heads, r);
        x(t, h, d) = sum;
      }
    }
  }
  return x;
}

Tensor LatentModel::Rotated(const Tensor& x, uint64_t first) const {
  Tensor y = x;
  const size_t pairs = frequencies_.size();
  for (size_t t = 0; t < x.tokens; ++t) {
    for (size_t h = 0; h < x.heads; ++h) {
      for (size_t i = 0; i < pairs; ++i) {
        const double angle = static_cast<double>(first + t) * frequencies_[i];
        const bool mixed = spec_.rope == Rope::kInterleaved;
        const size_t a = mixed ? 2 * i : i, b = mixed ? 2 * i + 1 : i + pairs;
        y(t, h, a) = x(t, h, a) * std::cos(angle) - x(t, h, b) * std::sin(angle);
        y(t, h, b) = x(t, h, b) * std::cos(angle) + x(t, h, a) * std::sin(angle);
      }
    }
  }
  return y;
}

}  // namespace kvg::test
