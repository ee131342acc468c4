// Reading safetensors checkpoints: one file, or several with model.safetensors.index.json.
// Files are mapped, and every number in them is checked before it is used; what is wrong is a
// Refusal that names the file. Used by model.cc.
#ifndef KVGEAR_EXAMPLES_DEMO_SAFETENSORS_H_
#define KVGEAR_EXAMPLES_DEMO_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace demo {

enum class DType { kF32, kF16, kBF16 };

inline size_t DTypeBytes(DType type) { return type == DType::kF32 ? 4 : 2; }

/// A tensor in a mapped file. `data` need not be aligned.
struct TensorView {
  std::string name;
  std::string dtype_name;  // as the file says, for example "F16"
  std::vector<uint64_t> shape;
  const unsigned char* data = nullptr;
  uint64_t bytes = 0;
  const std::string* file = nullptr;  // path, for sentences
};

/// A whole file in memory, read-only.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const unsigned char* data() const { return data_; }
  uint64_t size() const { return size_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  const unsigned char* data_ = nullptr;
  uint64_t size_ = 0;
};

/// The tensors of a checkpoint by name. The views live as long as the checkpoint.
class Checkpoint {
 public:
  /// Opens DIR/model.safetensors or the shards that DIR/model.safetensors.index.json lists.
  explicit Checkpoint(const std::string& dir);

  bool Has(const std::string& name) const { return tensors_.count(name) != 0; }

  /// The tensor, which must exist and have this shape and a floating point type; `type` is set.
  const TensorView& Get(const std::string& name, const std::vector<uint64_t>& shape,
                        DType* type) const;

  const std::map<std::string, TensorView>& tensors() const { return tensors_; }

 private:
  void OpenShards(const std::string& dir, const std::string& index_path);

  std::vector<std::unique_ptr<MappedFile>> files_;
  std::map<std::string, TensorView> tensors_;
};

/// The tensors of one safetensors file, after every check.
std::map<std::string, TensorView> ReadTensorIndex(const MappedFile& file);

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_SAFETENSORS_H_
