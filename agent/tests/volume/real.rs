//! Real programs on the mount, each checked by its own means. The long forms: `make soak`.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::lab::{Lab, Mount, pattern, soak};

/// Runs a script of the shell in `dir`; its standard output. It fails when any command in it does.
fn sh(dir: &Path, script: &str, arguments: &[&Path]) -> String {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script, "bash"]).args(arguments).current_dir(dir);
    command.env("HOME", "/nonexistent").env("GIT_CONFIG_NOSYSTEM", "1");
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{script}\n{stdout}\n{stderr}");
    stdout.into_owned()
}

const REPOSITORY: &str = r#"
git -c init.defaultBranch=main init -q "$1"
cd "$1"
git config user.name someone; git config user.email someone@example.org
for i in $(seq 1 $2); do mkdir -p "d$((i % 37))/e$((i % 5))"; echo "file $i $RANDOM" >"d$((i % 37))/e$((i % 5))/f$i"; done
ln -s d1 link
git add -A; git commit -q -m first
for i in 1 2 3; do echo more >>d1/e1/f1; git commit -q -a -m "change $i"; done
"#;

#[test]
fn git_clones_commits_and_checks_itself() {
    let lab = Lab::new();
    let mount = lab.mount();
    let (source, files) = (lab.dir.path().join("source"), if soak() { 4000 } else { 250 });
    sh(lab.dir.path(), REPOSITORY, &[&source, Path::new(&files.to_string())]);
    let script = r#"
        git clone -q --no-local "$1" clone
        cd clone
        git config user.name other; git config user.email other@example.org
        git fsck --full --strict
        test -z "$(git status --porcelain)"
        git checkout -q -b work
        echo here >new; git add new; git mv d1 moved; git rm -q -r d2
        git commit -q -m "on the volume"
        git gc -q; git fsck --full --strict
        test -z "$(git status --porcelain)"
        git rev-parse main
        git ls-files | wc -l
    "#;
    let told = sh(&mount.root, script, &[&source]);
    let head = sh(&source, "git rev-parse main; git ls-files | wc -l", &[]);
    assert_eq!(told.lines().next(), head.lines().next());
    mount.drain();
    let other = lab.elsewhere();
    let script =
        "cd clone; git fsck --full --strict; git -c core.checkStat=minimal status --porcelain; git log -1 --format=%s";
    assert_eq!(sh(&other.root, script, &[]), "on the volume\n");
    println!("git: {} files cloned, changed, packed and checked on two nodes", files + 1);
}

/// A configure script that asks the compiler, a Makefile of its making, many sources, and a test of their sum.
const PROJECT: &str = r##"
n=$2
mkdir "$1"; cd "$1"
cat >configure <<'END'
#!/bin/sh
echo 'int main(void) { return sizeof(long) == 8 ? 0 : 1; }' >conftest.c
${CC:-cc} conftest.c -o conftest && ./conftest && echo '#define LONG_IS_8 1' >config.h
rm -f conftest conftest.c
sed "s/@N@/$(ls part*.c | wc -l)/g" Makefile.in >Makefile
END
chmod +x configure
cat >Makefile.in <<'END'
OBJECTS := $(patsubst %.c,%.o,$(wildcard *.c))
sum: $(OBJECTS)
	$(CC) -o $@ $^
%.o: %.c config.h
	$(CC) -O1 -Wall -Werror -c -o $@ $<
check: sum
	test "$$(./sum)" = "$$((@N@ * (@N@ + 1) / 2))"
	@echo the sum is right
END
for i in $(seq 1 $n); do echo "#include \"config.h\"
long part$i(long x) { return LONG_IS_8 * x + $i; }" >part$i.c; done
{ echo '#include <stdio.h>'; for i in $(seq 1 $n); do echo "long part$i(long);"; done
  echo 'int main(void) { long x = 0;'; for i in $(seq 1 $n); do echo "x = part$i(x);"; done
  echo 'printf("%ld\n", x); return 0; }'; } >main.c
"##;

#[test]
fn a_project_is_configured_made_and_checked() {
    let lab = Lab::new();
    let mount = lab.mount();
    let sources = if soak() { 400 } else { 40 };
    sh(&mount.root, PROJECT, &[&mount.path("project"), Path::new(&sources.to_string())]);
    let told = sh(&mount.path("project"), "./configure && make -s -j4 check", &[]);
    assert_eq!(told, "the sum is right\n");
    mount.drain();
    let other = lab.elsewhere();
    let again = sh(&other.path("project"), "make -s -j4 check; make -q sum && echo nothing to do", &[]);
    assert_eq!(again, "the sum is right\nnothing to do\n", "times are what they were");
}

/// Adds transactions of a hundred rows; says the number of each once it is committed.
const WRITER: &str = r#"
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
assert db.execute("pragma journal_mode = " + sys.argv[2]).fetchone()[0] == sys.argv[2]
db.execute("create table if not exists t (transaction_number integer, row integer, text text)")
first = db.execute("select coalesce(max(transaction_number), 0) from t").fetchone()[0] + 1
for number in range(first, first + int(sys.argv[3])):
    db.execute("begin immediate")
    db.executemany("insert into t values (?, ?, ?)", [(number, row, "x" * row) for row in range(100)])
    db.execute("commit")
    print(number, flush=True)
"#;

const CHECKER: &str = r#"
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
print(db.execute("pragma integrity_check").fetchone()[0], end=" ")
rows, transactions = db.execute("select count(*), count(distinct transaction_number) from t").fetchone()
assert rows == 100 * transactions, (rows, transactions)
assert transactions == db.execute("select max(transaction_number) from t").fetchone()[0]
print(transactions)
"#;

fn python(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", script]).args(arguments);
    command
}

/// The last transaction that the writer says is committed. With `kill_after` it is killed so long after its first.
fn write_rows(database: &Path, mode: &str, transactions: u32, kill_after: Option<Duration>) -> u32 {
    let mut writer = python(WRITER, &[database.to_str().unwrap(), mode, &transactions.to_string()]);
    let mut child = writer.stdout(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(child.stdout.take().unwrap());
    let mut lines = String::new();
    told.read_line(&mut lines).unwrap();
    if let Some(after) = kill_after {
        std::thread::sleep(after);
        child.kill().unwrap();
    }
    told.read_to_string(&mut lines).unwrap();
    assert_eq!(child.wait().unwrap().success(), kill_after.is_none());
    lines.lines().last().unwrap().parse().unwrap()
}

fn check_rows(mount: &Mount, name: &str, committed: u32) -> u32 {
    let output = python(CHECKER, &[mount.path(name).to_str().unwrap()]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let there = told.trim().strip_prefix("ok ").unwrap_or_else(|| panic!("{name}: {output:?}")).parse().unwrap();
    assert!(there >= committed, "{name}: {committed} were committed, {there} are there");
    there
}

#[test]
fn sqlite_with_both_journals_and_kills() {
    let (transactions, kills) = if soak() { (200, 20) } else { (20, 3) };
    for mode in ["delete", "wal"] {
        let lab = Lab::new();
        let mount = lab.mount();
        let database = mount.path("rows.db");
        for kill in 0..kills {
            let committed = write_rows(&database, mode, u32::MAX, Some(Duration::from_millis(7 + 41 * kill)));
            check_rows(&mount, "rows.db", committed);
        }
        let last = write_rows(&database, mode, transactions, None);
        assert_eq!(check_rows(&mount, "rows.db", last), last);
        mount.drain();
        assert_eq!(check_rows(&lab.elsewhere(), "rows.db", last), last);
        println!("sqlite, {mode}: {last} transactions of 100 rows, {kills} kills, integrity_check ok");
    }
}

#[test]
fn tar_and_rsync_bring_a_tree_over() {
    let lab = Lab::new();
    let mount = lab.mount();
    let source = lab.dir.path().join("source");
    for index in 0..if soak() { 3000 } else { 150 } {
        let dir = source.join(format!("d{}/e{}", index % 13, index % 3));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("f{index}")), pattern(index * 137 % 40_000, index as u8)).unwrap();
    }
    std::os::unix::fs::symlink("d0", source.join("link")).unwrap();
    sh(
        lab.dir.path(),
        "chown -R 1000:12 source/d1; chmod -R g+w source/d2; chmod 4711 source/d3/e*/f*; mkfifo source/pipe",
        &[],
    );
    let script = r#"
        tar -C "$1" -cf - . | (mkdir tar && tar -C tar -xpf -)
        rsync -aX --checksum "$1/" rsync/
        for there in tar rsync; do rsync -naicX --checksum --delete "$1/" "$there/"; done
        tar -C "$1" -df <(tar -C rsync -cf - .)
    "#;
    assert_eq!(sh(&mount.root, script, &[&source]), "");
    mount.drain();
    let script = r#"for there in tar rsync; do rsync -naicX --checksum --delete "$1/" "$there/"; done"#;
    assert_eq!(sh(&lab.elsewhere().root, script, &[&source]), "");
}

#[test]
fn a_python_environment_is_made_and_used() {
    let lab = Lab::new();
    let mount = lab.mount();
    let without = if soak() { "" } else { "--without-pip" };
    let script = r#"
        python3 -m venv $2 "$1"
        mine=$(echo "$1"/lib/python3*/site-packages)/mine
        mkdir "$mine"
        echo 'def answer(): return 42' >"$mine/__init__.py"
        "$1/bin/python" -c 'import mine, sys; print(mine.answer(), sys.prefix == sys.argv[1])' "$1"
        if [ -z "$2" ]; then "$1/bin/pip" --version >&2; fi
    "#;
    let told = sh(&mount.root, script, &[&mount.path("venv"), Path::new(without)]);
    assert_eq!(told, "42 True\n");
    mount.drain();
    let other = lab.elsewhere();
    let told = sh(&other.root, "venv/bin/python -c 'import mine; print(mine.answer())'", &[]);
    assert_eq!(told, "42\n");
}

/// Four ranks write one data set together, each its rows, and read their neighbour's.
const HDF5: &str = r#"
#include <hdf5.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#define COLUMNS 1000
int main(int argc, char **argv) {
  int rank, ranks, wrong = 0, all = 0;
  hsize_t rows = atoi(argv[2]);
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  hid_t access = H5Pcreate(H5P_FILE_ACCESS), together = H5Pcreate(H5P_DATASET_XFER);
  H5Pset_fapl_mpio(access, MPI_COMM_WORLD, MPI_INFO_NULL);
  H5Pset_dxpl_mpio(together, H5FD_MPIO_COLLECTIVE);
  hid_t file = H5Fcreate(argv[1], H5F_ACC_TRUNC, H5P_DEFAULT, access);
  hsize_t size[2] = {rows * ranks, COLUMNS}, count[2] = {rows, COLUMNS}, start[2] = {rank * rows, 0};
  hid_t space = H5Screate_simple(2, size, NULL), mine = H5Screate_simple(2, count, NULL);
  hid_t set = H5Dcreate(file, "numbers", H5T_NATIVE_INT, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  int *numbers = malloc(rows * COLUMNS * sizeof(int));
  for (hsize_t i = 0; i < rows * COLUMNS; i++) numbers[i] = rank * 1000000 + (int)i;
  H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL);
  if (H5Dwrite(set, H5T_NATIVE_INT, mine, space, together, numbers) < 0) MPI_Abort(MPI_COMM_WORLD, 2);
  H5Dclose(set);
  H5Fclose(file);
  file = H5Fopen(argv[1], H5F_ACC_RDONLY, access);
  set = H5Dopen(file, "numbers", H5P_DEFAULT);
  int other = (rank + 1) % ranks;
  start[0] = other * rows;
  H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL);
  if (H5Dread(set, H5T_NATIVE_INT, mine, space, together, numbers) < 0) MPI_Abort(MPI_COMM_WORLD, 3);
  for (hsize_t i = 0; i < rows * COLUMNS; i++) wrong += numbers[i] != other * 1000000 + (int)i;
  H5Dclose(set);
  H5Fclose(file);
  MPI_Reduce(&wrong, &all, 1, MPI_INT, MPI_SUM, 0, MPI_COMM_WORLD);
  if (rank == 0) printf("%d ranks, %d wrong\n", ranks, all);
  MPI_Finalize();
  return 0;
}
"#;

#[test]
fn four_ranks_write_one_hdf5_file() {
    let lab = Lab::new();
    let mount = lab.mount();
    std::fs::write(lab.dir.path().join("hdf5.c"), HDF5).unwrap();
    let script = r#"
        triple=$(gcc -print-multiarch)
        mpicc -O1 -I/usr/include/hdf5/openmpi -o hdf5 hdf5.c -L/usr/lib/$triple/hdf5/openmpi -lhdf5
        mpirun --allow-run-as-root --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 -n 4 ./hdf5 "$1/data.h5" "$2"
    "#;
    let rows = if soak() { 4000 } else { 100 };
    let told = sh(lab.dir.path(), script, &[&mount.root, Path::new(&rows.to_string())]);
    assert_eq!(told, "4 ranks, 0 wrong\n");
    let bytes = mount.read("data.h5");
    mount.drain();
    assert!(bytes.starts_with(b"\x89HDF") && lab.body("data.h5") == bytes);
}
