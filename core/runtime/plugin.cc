// The CUDA plugin: where it is looked for, what is looked at, how it is kept.
#include "core/runtime/plugin.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace kvg {
namespace {

constexpr char kFileName[] = "libkvgear_cuda.so";
constexpr char kPathVariable[] = "KVGEAR_PLUGIN_PATH";

std::string OwnFolder() {
  Dl_info info;
  static const char anchor = 0;
  if (dladdr(&anchor, &info) == 0 || info.dli_fname == nullptr) return ".";
  const std::string_view file = info.dli_fname;
  const size_t slash = file.rfind('/');
  return slash == std::string_view::npos ? "." : std::string(file.substr(0, slash));
}

// What dlopen and environment variables say may hold anything.
std::string Printable(std::string_view text) { return absl::Utf8SafeCEscape(text.substr(0, 200)); }

absl::StatusOr<const ops::Plugin*> Check(const void* symbol, const std::string& file) {
  const auto& plugin = *static_cast<const ops::Plugin*>(symbol);
  if (plugin.magic != ops::kPluginMagic) {
    return BackendError("plugin: ", Printable(file), " is no CUDA plugin of kvgear (its magic number is ",
                        plugin.magic, "); install the ", kFileName, " that belongs to this library");
  }
  if (plugin.version != ops::kPluginVersion) {
    return BackendError("plugin: ", Printable(file), " speaks version ", plugin.version,
                        " of the plugin interface, this library version ", ops::kPluginVersion,
                        "; install the two from one build");
  }
  if (plugin.struct_size != sizeof(ops::Plugin)) {
    return BackendError("plugin: the table of ", Printable(file), " has ", plugin.struct_size, " bytes, not ",
                        sizeof(ops::Plugin), "; install plugin and library from one build");
  }
  return &plugin;
}

absl::StatusOr<const ops::Plugin*> Open(const std::string& file) {
  // Bound now, so that a plugin with a symbol missing fails here; local, so that its CUDA runtime
  // meets no other.
  void* const library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const why = dlerror();
    return BackendError("plugin: ", Printable(file), " could not be loaded: ",
                        Printable(why == nullptr ? "unknown reason" : why));
  }
  const void* const symbol = dlsym(library, ops::kPluginSymbol);
  absl::StatusOr<const ops::Plugin*> plugin =
      symbol == nullptr
          ? BackendError("plugin: ", Printable(file), " does not export ", ops::kPluginSymbol,
                         "; it is no plugin of kvgear")
          : Check(symbol, file);
  if (!plugin.ok()) dlclose(library);  // nothing of it was called
  return plugin;
}

absl::StatusOr<const ops::Plugin*> Search() {
  std::vector<std::string> folders;
  const char* const path = std::getenv(kPathVariable);
  if (path != nullptr && *path != '\0') {
    folders = absl::StrSplit(path, ':', absl::SkipEmpty());
  } else {
    folders.push_back(OwnFolder());
  }
  for (const std::string& folder : folders) {
    const std::string file = absl::StrCat(folder, "/", kFileName);
    if (access(file.c_str(), F_OK) == 0) return Open(file);
  }
  return BackendError("plugin: ", kFileName, " was not found in ",
                      Printable(absl::StrJoin(folders, ":")),
                      "; put it beside the library or name its folder in ", kPathVariable,
                      ", or use the device CPU");
}

}  // namespace

absl::StatusOr<const ops::Plugin*> LoadCudaPlugin() {
  static std::mutex mutex;
  static const ops::Plugin* loaded = nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  if (loaded != nullptr) return loaded;
  absl::StatusOr<const ops::Plugin*> plugin = Search();
  if (plugin.ok()) loaded = *plugin;
  return plugin;
}

}  // namespace kvg
