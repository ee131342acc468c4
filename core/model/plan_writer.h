// Writes plan files, as core/model/plan_file.h describes them.
//
// Called by tools/ and tests; the library itself only reads.
#ifndef KVGEAR_CORE_MODEL_PLAN_WRITER_H_
#define KVGEAR_CORE_MODEL_PLAN_WRITER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/model/plan.h"

namespace kvg {

class PlanWriter {
 public:
  // With the version of the layout and the shape of the model.
  explicit PlanWriter(const Shape& shape);

  void Text(const std::string& key, const std::string& value);  // the last one of a key holds
  void Floats(const std::string& name, const std::vector<uint64_t>& shape,
              const std::vector<float>& values);
  void Doubles(const std::string& name, const std::vector<uint64_t>& shape,
               const std::vector<double>& values);
  void Halves(const std::string& name, const std::vector<uint64_t>& shape,
              const std::vector<float>& values);  // rounded to fp16
  void Bytes(const std::string& name, const std::vector<uint64_t>& shape,
             const std::vector<uint8_t>& values);

  // The whole file: the same calls give the same bytes.
  std::string Contents() const;
  absl::Status Write(const std::string& path) const;

 private:
  struct Tensor {
    std::string name, dtype;
    std::vector<uint64_t> shape;
    std::string data;
  };
  void Add(const std::string& name, const char* dtype, const std::vector<uint64_t>& shape,
           const void* data, size_t bytes);

  std::vector<std::pair<std::string, std::string>> texts_;
  std::vector<Tensor> tensors_;
};

}  // namespace kvg

#endif  // KVGEAR_CORE_MODEL_PLAN_WRITER_H_
