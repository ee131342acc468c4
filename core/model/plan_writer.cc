// Plan files: header, then tensors, each from a multiple of 8 bytes on.
#include "core/model/plan_writer.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/model/text.h"
#include "kernels/half.h"

namespace kvg {

PlanWriter::PlanWriter(const Shape& shape) {
  Text("kvgear.plan", "1");
  Text("layers", absl::StrCat(shape.layers));
  Text("q_heads", absl::StrCat(shape.q_heads));
  Text("kv_heads", absl::StrCat(shape.kv_heads));
  Text("head_dim", absl::StrCat(shape.head_dim));
}

void PlanWriter::Text(const std::string& key, const std::string& value) {
  const auto found = std::find_if(texts_.begin(), texts_.end(),
                                  [&](const auto& text) { return text.first == key; });
  if (found != texts_.end()) {
    found->second = value;
  } else {
    texts_.emplace_back(key, value);
  }
}

void PlanWriter::Add(const std::string& name, const char* dtype, const std::vector<uint64_t>& shape,
                     const void* data, size_t bytes) {
  Tensor tensor{name, dtype, shape, std::string(bytes, '\0')};
  if (bytes > 0) std::memcpy(tensor.data.data(), data, bytes);
  tensors_.push_back(std::move(tensor));
}

void PlanWriter::Floats(const std::string& name, const std::vector<uint64_t>& shape,
                        const std::vector<float>& values) {
  Add(name, "F32", shape, values.data(), values.size() * sizeof(float));
}

void PlanWriter::Doubles(const std::string& name, const std::vector<uint64_t>& shape,
                         const std::vector<double>& values) {
  Add(name, "F64", shape, values.data(), values.size() * sizeof(double));
}

void PlanWriter::Halves(const std::string& name, const std::vector<uint64_t>& shape,
                        const std::vector<float>& values) {
  std::vector<uint16_t> bits(values.size());
  std::transform(values.begin(), values.end(), bits.begin(), F32ToF16Saturate);
  Add(name, "F16", shape, bits.data(), bits.size() * sizeof(uint16_t));
}

void PlanWriter::Bytes(const std::string& name, const std::vector<uint64_t>& shape,
                       const std::vector<uint8_t>& values) {
  Add(name, "U8", shape, values.data(), values.size());
}

std::string PlanWriter::Contents() const {
  nlohmann::ordered_json header;
  for (const auto& [key, value] : texts_) header["__metadata__"][key] = value;
  constexpr uint64_t kAlign = 8;
  const auto padded = [](uint64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; };
  uint64_t at = 0;
  for (const Tensor& tensor : tensors_) {
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {at, at + tensor.data.size()}}};
    at += padded(tensor.data.size());
  }
  std::string text = header.dump();
  text.resize(padded(text.size()), ' ');
  const uint64_t length = text.size();
  std::string out(sizeof(length), '\0');
  std::memcpy(out.data(), &length, sizeof(length));
  out += text;
  for (const Tensor& tensor : tensors_) {
    out += tensor.data;
    out.resize(out.size() + padded(tensor.data.size()) - tensor.data.size(), '\0');
  }
  return out;
}

absl::Status PlanWriter::Write(const std::string& path) const {
  const std::string contents = Contents();
  std::FILE* const file = std::fopen(path.c_str(), "wb");
  bool good = file != nullptr && std::fwrite(contents.data(), contents.size(), 1, file) == 1;
  if (file != nullptr) good = std::fclose(file) == 0 && good;
  if (good) return absl::OkStatus();
  return IoError("the plan file ", Quoted(path), " cannot be written: ", std::strerror(errno));
}

}  // namespace kvg
