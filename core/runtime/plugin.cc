// The CUDA plugin: where it is looked for, what is looked at, how it is kept.
#include "core/runtime/plugin.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/runtime/elf_symbol.h"

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

// The numbers that a plugin's table begins with.
struct Head {
  uint32_t magic, version, struct_size, oldest;
};
static_assert(sizeof(Head) == offsetof(ops::Plugin, name));

// Whether this library can use a plugin of such a head, by what the file says and nothing else.
absl::Status Check(const Head& head, uint64_t symbol_bytes, const std::string& file) {
  if (head.magic != ops::kPluginMagic) {
    return BackendError("plugin: ", Printable(file), " is no CUDA plugin of kvgear (its magic number is ",
                        head.magic, "); install the ", kFileName, " that belongs to this library");
  }
  if (head.version < ops::kPluginOldest || head.oldest > ops::kPluginVersion ||
      head.oldest > head.version) {
    return BackendError("plugin: ", Printable(file), " speaks versions ", head.oldest, " to ",
                        head.version, " of the plugin interface, this library versions ",
                        ops::kPluginOldest, " to ", ops::kPluginVersion,
                        "; install the two from one build");
  }
  const bool newer = head.version > ops::kPluginVersion;
  const uint32_t needed = ops::PluginBytes(newer ? ops::kPluginVersion : head.version);
  if (newer ? head.struct_size < needed : head.struct_size != needed) {
    return BackendError("plugin: the table of ", Printable(file), " has ", head.struct_size,
                        " bytes, not ", needed, "; install plugin and library from one build");
  }
  if (head.struct_size > symbol_bytes) {
    return BackendError("plugin: the table of ", Printable(file), " has ", symbol_bytes,
                        " bytes, and says ", head.struct_size,
                        "; install plugin and library from one build");
  }
  return absl::OkStatus();
}

absl::StatusOr<Head> Look(const std::string& file) {
  Head head;
  const absl::StatusOr<uint64_t> bytes =
      ReadDataSymbol(file, ops::kPluginSymbol, &head, sizeof(head));
  if (absl::IsNotFound(bytes.status())) {
    return BackendError("plugin: ", Printable(file), " does not export ", ops::kPluginSymbol,
                        " as data; it is no plugin of kvgear");
  }
  if (!bytes.ok()) {
    return BackendError("plugin: ", Printable(file), " ", bytes.status().message(),
                        "; install the ", kFileName, " that belongs to this library");
  }
  if (absl::Status status = Check(head, *bytes, file); !status.ok()) return status;
  return head;
}

// The functions of a table of `bytes` bytes that follow its numbers: whether there is one in each place.
bool IsComplete(const char* table, uint32_t bytes) {
  using Place = const void*;
  static_assert((sizeof(ops::Plugin) - sizeof(Head)) % sizeof(Place) == 0);
  for (uint32_t at = sizeof(Head); at < bytes; at += sizeof(Place)) {
    Place place;
    std::memcpy(&place, table + at, sizeof(place));
    if (place == nullptr) return false;
  }
  return true;
}

absl::StatusOr<const ops::Plugin*> Open(const std::string& file) {
  const absl::StatusOr<Head> head = Look(file);
  if (!head.ok()) return head.status();
  // Bound now, so that a plugin with a symbol missing fails here; local, so that its CUDA runtime
  // meets no other. From here on its constructors have run.
  void* const library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const why = dlerror();
    return BackendError("plugin: ", Printable(file), " could not be loaded: ",
                        Printable(why == nullptr ? "unknown reason" : why));
  }
  // The same table as in the file: not of a library that it brings along, and not of a file that
  // has taken its place.
  const auto* const table = static_cast<const char*>(dlsym(library, ops::kPluginSymbol));
  if (table == nullptr || std::memcmp(table, &*head, sizeof(Head)) != 0) {
    dlclose(library);
    return BackendError("plugin: ", Printable(file), " was changed while it was loaded; try again");
  }
  static ops::Plugin plugin;  // what an older one lacks stays nullptr
  const uint32_t bytes = std::min<uint32_t>(head->struct_size, sizeof(plugin));
  if (!IsComplete(table, bytes)) {
    dlclose(library);
    return BackendError("plugin: the table of ", Printable(file),
                        " lacks functions; install plugin and library from one build");
  }
  std::memcpy(&plugin, table, bytes);
  return &plugin;
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

absl::Status CheckCudaPlugin(const std::string& file) { return Look(file).status(); }

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
