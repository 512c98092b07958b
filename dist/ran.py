# Which functions of a program run, each once, in the order of their first call. Within gdb:
#   RAN=FILE gdb --batch-silent -x dist/ran.py --args PROGRAM ARGUMENTS
# Every function starts with a breakpoint that is taken away when it is hit: after that the program runs at its own speed,
# so that a role can be watched at its real work. SIGTERM to the program ends it as ever.
import gdb
import os
import subprocess

BREAKPOINT = b"\xcc"

for setting in ("pagination off", "confirm off", "auto-load safe-path /", "startup-with-shell off", "print thread-events off"):
    gdb.execute("set " + setting)
for signal in ("SIGTERM", "SIGINT", "SIGPIPE", "SIGCHLD", "SIGUSR1"):
    gdb.execute(f"handle {signal} nostop noprint pass", to_string=True)
gdb.execute("starti", to_string=True)

program = gdb.current_progspace().filename
inferior = gdb.selected_inferior()
with open(f"/proc/{inferior.pid}/maps") as maps:
    base = next(int(line.split("-")[0], 16) for line in maps if line.rstrip().endswith(os.path.realpath(program)))

# Only what the symbol table calls a function: hand-written assembly keeps tables among its code.
table = subprocess.run(["readelf", "-sW", program], check=True, capture_output=True, text=True).stdout
names = {}
for line in table.splitlines():
    field = line.split()
    if len(field) == 8 and field[3] == "FUNC" and field[6] != "UND":
        names.setdefault(base + int(field[1], 16), field[7])

first = {}
for address in names:
    first[address] = inferior.read_memory(address, 1).tobytes()
    inferior.write_memory(address, BREAKPOINT)

hit = {}
while inferior.is_valid() and inferior.pid:
    gdb.execute("continue", to_string=True)
    if not inferior.pid:
        break
    # It stands behind the breakpoint. Another thread may have come to the same one meanwhile.
    address = int(gdb.selected_frame().pc()) - 1
    if address not in names:
        raise gdb.GdbError(f"stopped at {address:#x}, where there is no breakpoint")
    if address not in hit:
        inferior.write_memory(address, first[address])
        hit[address] = names[address]
    gdb.execute(f"set $pc = {address:#x}", to_string=True)

with open(os.environ["RAN"], "w") as out:
    out.writelines(name + "\n" for name in hit.values())
