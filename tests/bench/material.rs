//! What the works work on: files whose contents are known, an archive of a source tree, a C project, a large program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;

use crate::content::{Content, PAGE};
use crate::daemon::run;
use crate::works::Sizes;

pub(crate) const BIG: &str = "big.bin";
pub(crate) const SMALL: &str = "small";
pub(crate) const PROGRAM: &str = "program";
pub(crate) const PROJECT: &str = "project";
pub(crate) const TREE: &str = "tree";

/// Everything that is made once, on the local disk and in memory.
#[derive(Debug)]
pub(crate) struct Material {
    pub(crate) sizes: Sizes,
    /// Where a work may put what it takes out of a mount.
    pub(crate) scratch: PathBuf,
    /// As many bytes as `big.bin` has, with other contents.
    pub(crate) fresh: Bytes,
    pub(crate) fresh_content: Content,
    pub(crate) program: PathBuf,
    pub(crate) project: PathBuf,
    archive: PathBuf,
    few_archive: PathBuf,
}

impl Material {
    pub(crate) fn new(directory: &Path, sizes: Sizes) -> anyhow::Result<Self> {
        fs::create_dir_all(directory)?;
        let fresh_content = Content::new(2, sizes.big_mib << 20);
        let made = Self {
            sizes,
            scratch: directory.join("scratch"),
            fresh: fresh_content.whole()?.into(),
            fresh_content,
            program: directory.join(PROGRAM),
            project: directory.join(PROJECT),
            archive: directory.join("tree.tar"),
            few_archive: directory.join("few.tar"),
        };
        fs::create_dir_all(&made.scratch)?;
        made.write_archive(&made.archive, sizes.tree_files)?;
        made.write_archive(&made.few_archive, sizes.few)?;
        made.write_program()?;
        write_project(&made.project, sizes.sources)?;
        Ok(made)
    }

    pub(crate) fn big(&self) -> Content {
        Content::new(1, self.sizes.big_mib << 20)
    }

    pub(crate) fn cold(&self) -> Vec<(String, Content)> {
        let content = |index| Content::new(100 + index, self.sizes.cold_mib << 20);
        (0..self.sizes.cold_files).map(|index| (format!("cold-{index}.bin"), content(index))).collect()
    }

    /// Names within a directory, and contents.
    pub(crate) fn small(&self, files: u64) -> Vec<(String, Content)> {
        (0..files).map(|index| (format!("f{index:05}"), Content::new(1000 + index, PAGE as u64))).collect()
    }

    /// Paths below `tree/`, and contents.
    pub(crate) fn tree(&self, files: u64) -> Vec<(String, Content)> {
        (0..files).map(|index| (tree_path(index), Content::new(100_000 + index, tree_bytes(index)))).collect()
    }

    /// The archive of so many files: all, or a few.
    pub(crate) fn archive(&self, few: bool) -> (&Path, u64) {
        if few { (&self.few_archive, self.sizes.few) } else { (&self.archive, self.sizes.tree_files) }
    }

    /// What the program prints.
    pub(crate) fn program_says(&self) -> anyhow::Result<String> {
        let bytes = self.program_content().whole()?;
        let words = bytes.chunks_exact(8).filter_map(|chunk| chunk.first_chunk::<8>());
        let sum = words.fold(0u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)));
        Ok(format!("{sum:016x}\n"))
    }

    fn program_content(&self) -> Content {
        Content::new(3, self.sizes.program_mib << 20)
    }

    fn write_archive(&self, path: &Path, files: u64) -> anyhow::Result<()> {
        let root = self.scratch.join(TREE);
        for (name, content) in self.tree(files) {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap_or(&root))?;
            fs::write(path, content.whole()?)?;
        }
        run(Command::new("tar").arg("-C").arg(&self.scratch).arg("-cf").arg(path).arg(TREE))?;
        Ok(fs::remove_dir_all(root)?)
    }

    fn write_program(&self) -> anyhow::Result<()> {
        let (blob, source) = (self.scratch.join("blob"), self.scratch.join("program.c"));
        fs::write(&blob, self.program_content().whole()?)?;
        let text = PROGRAM_SOURCE.replace("BLOB", &blob.display().to_string());
        fs::write(&source, text)?;
        run(Command::new("gcc").arg("-O1").arg("-o").arg(&self.program).arg(&source))?;
        fs::set_permissions(&self.program, fs::Permissions::from_mode(0o755))?;
        fs::remove_file(source)?;
        Ok(fs::remove_file(blob)?)
    }
}

const PROGRAM_SOURCE: &str = r#"
#include <stdint.h>
#include <stdio.h>
__asm__(".section .rodata\n.balign 8\n.global blob\nblob:\n.incbin \"BLOB\"\n.global blob_end\nblob_end:\n.previous\n");
extern const uint64_t blob[], blob_end[];
int main(void) {
    uint64_t sum = 0;
    for (const uint64_t *word = blob; word < blob_end; word++) sum += *word;
    printf("%016llx\n", (unsigned long long)sum);
    return 0;
}
"#;

/// 25 files a directory, five directories deep in places, as source trees are.
fn tree_path(index: u64) -> String {
    let group = index / 25;
    let depth = usize::try_from(group % 5).unwrap_or(0);
    let inner: String = ["", "src/", "src/core/", "src/core/util/", "src/core/util/io/"][depth].to_owned();
    format!("part{group:03}/{inner}file{index:05}.c")
}

/// Most are of a few KiB, some of many.
fn tree_bytes(index: u64) -> u64 {
    match index % 20 {
        0 => 48 << 10,
        1..=5 => (8 << 10) + index % 4096,
        _ => 800 + index * 37 % 4000,
    }
}

/// A program of so many sources, with a makefile; it prints the sum of what each function returns.
fn write_project(directory: &Path, sources: u64) -> anyhow::Result<()> {
    fs::create_dir_all(directory)?;
    let functions = 60;
    let mut header =
        String::from("#include <stdint.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n");
    let mut main = String::from("#include \"all.h\"\nint main(void) { uint64_t sum = 0;\n");
    for unit in 0..sources {
        let mut text = String::from("#include \"all.h\"\n");
        for function in 0..functions {
            text.push_str(&format!(
                "static uint64_t f{function}(uint64_t x) {{ for (int i = 0; i < {}; i++) x = x * 31 + i; return x; }}\n",
                unit + function + 1
            ));
        }
        let calls: Vec<String> = (0..functions).map(|function| format!("f{function}(x)")).collect();
        text.push_str(&format!("uint64_t unit{unit}(uint64_t x) {{ return {}; }}\n", calls.join(" ^ ")));
        fs::write(directory.join(format!("unit{unit}.c")), text)?;
        header.push_str(&format!("uint64_t unit{unit}(uint64_t x);\n"));
        main.push_str(&format!("    sum += unit{unit}({unit});\n"));
    }
    main.push_str("    printf(\"%llu\\n\", (unsigned long long)sum);\n    return 0;\n}\n");
    fs::write(directory.join("all.h"), header)?;
    fs::write(directory.join("main.c"), main)?;
    Ok(fs::write(directory.join("Makefile"), MAKEFILE)?)
}

const MAKEFILE: &str = "\
objects := $(patsubst %.c,%.o,$(wildcard *.c))
all: program
program: $(objects)
\tgcc -o $@ $^
%.o: %.c all.h
\tgcc -O2 -g -c -o $@ $<
clean:
\trm -f program $(objects)
";
