// Plan files: what was worked out offline for one model, as tensors and texts in a safetensors file.
//
// Called by core/model/factors and whatever else takes tensors from a plan. The file is not trusted:
// every number of its header is checked before it is used, no memory is taken for a tensor that the
// file is too short to hold, and a tensor is converted only with the dtype and the shape that its
// reader asks for, and only if all of it is finite.
//
// Texts (the __metadata__ of the file):
//   kvgear.plan      "1", the version of this layout
//   layers, q_heads, kv_heads, head_dim   the shape of the model, in digits
//   recipes          text of a plan, as for kvg_plan_create
//   fingerprint      what tells this model from others of its shape; up to 256 bytes, may be absent
// Which tensors a part of the library reads, and what they mean, is said where it reads them:
// core/model/factors.h. Tensors that nobody asks for are passed over.
#ifndef KVGEAR_CORE_MODEL_PLAN_FILE_H_
#define KVGEAR_CORE_MODEL_PLAN_FILE_H_

#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace kvg {

class PlanFile {
 public:
  static absl::StatusOr<PlanFile> Open(const char* path);

  // The text of a key; nullptr if there is none.
  const std::string* Text(std::string_view key) const;
  // A text that must be a number in digits.
  absl::StatusOr<uint32_t> Number(std::string_view key) const;

  // The sizes of a tensor; nullptr if there is none of this name.
  const std::vector<uint64_t>* ShapeOf(std::string_view name) const;
  // The elements of a tensor of F16, BF16, F32 or F64, which must have this shape and be finite.
  absl::StatusOr<std::vector<float>> Floats(std::string_view name,
                                            const std::vector<uint64_t>& shape) const;
  // The same, not rounded to fp32.
  absl::StatusOr<std::vector<double>> Doubles(std::string_view name,
                                              const std::vector<uint64_t>& shape) const;
  // The elements of a tensor of U8, which must have this shape.
  absl::StatusOr<std::vector<uint8_t>> Bytes(std::string_view name,
                                             const std::vector<uint64_t>& shape) const;

 private:
  struct Tensor {
    std::string dtype;
    std::vector<uint64_t> shape;
    uint64_t at = 0, bytes = 0;  // from the start of the file
  };
  struct Close {
    void operator()(std::FILE* file) const { (void)std::fclose(file); }
  };

  absl::Status ReadHeader(uint64_t size);
  absl::StatusOr<const Tensor*> Find(std::string_view name, const std::vector<uint64_t>& shape,
                                     bool floats) const;
  absl::StatusOr<std::vector<unsigned char>> Raw(std::string_view name, const Tensor& tensor) const;
  template <typename T>
  absl::StatusOr<std::vector<T>> Numbers(std::string_view name,
                                         const std::vector<uint64_t>& shape) const;

  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
  std::map<std::string, std::string, std::less<>> texts_;
  std::map<std::string, Tensor, std::less<>> tensors_;
};

}  // namespace kvg

#endif  // KVGEAR_CORE_MODEL_PLAN_FILE_H_
