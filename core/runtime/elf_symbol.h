// A look at a data symbol of a shared library in its file, before anything of the library is loaded.
//
// Called by core/runtime/plugin. Loading a library runs its constructors; whoever must know first what
// a library says of itself reads it here.
#ifndef KVGEAR_CORE_RUNTIME_ELF_SYMBOL_H_
#define KVGEAR_CORE_RUNTIME_ELF_SYMBOL_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/base/status.h"

namespace kvg {

// Copies the first `bytes` bytes of the data symbol `name` of the ELF library `file` to `out`, and gives
// the size that its symbol table says. The symbol is the one that dlsym would find: looked up by the
// hash table that the loader uses, through the program headers alone. Numbers that relocation sets,
// such as pointers, are not what they will be.
//
// kNotFound when the library defines no such data symbol; kFailedPrecondition, with what is wrong with
// the file (no subject, to be put behind its name), when it is no library of this machine, is cut, or
// says what cannot be. The file may be of any content: reads are bounded by its size, and few.
absl::StatusOr<uint64_t> ReadDataSymbol(const std::string& file, const char* name, void* out,
                                        size_t bytes);

}  // namespace kvg

#endif  // KVGEAR_CORE_RUNTIME_ELF_SYMBOL_H_
