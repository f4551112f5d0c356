#!/usr/bin/env bash
# A real Slurm on one machine, for tests: munge, slurmctld and three nodes with two pretended GPUs each.
#   slurm.sh start FOLDER [VISIBLE...]   everything goes into FOLDER (a new one); FOLDER/etc/slurm.conf is what SLURM_CONF
#                                        must name. The nodes have a /tmp of their own; VISIBLE folders are seen there too.
#   slurm.sh stop FOLDER                 cancels the jobs, waits for them, ends what start has started and nothing else
# Needs root, mount and UTS namespaces, and Debian's packages slurm-wlm and munge.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
nodes=(node1 node2 node3)
start_seconds=20

fail() {
  echo "slurm.sh: $*" >&2
  exit 1
}

# free_ports COUNT: so many ports that nobody listens at.
free_ports() {
  local port found=0
  for ((port = 16800 + RANDOM % 8000; found < $1; port++)); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && continue
    echo "$port"
    found=$((found + 1))
  done
}

write_configuration() {
  local host ports node i=0
  host=$(hostname -s)
  mapfile -t ports < <(free_ports $((1 + ${#nodes[@]})))
  {
    cat <<END
ClusterName=ci
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
AuthType=auth/munge
AuthInfo=socket=$folder/munge/sock,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
SlurmctldPidFile=$folder/pid/slurmctld.file
SlurmdPidFile=$folder/pid/slurmd.%n.file
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.%n.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool.%n
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=1
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=3
MinJobAge=600
JobRequeue=1
JobCompType=jobcomp/filetxt
JobCompLoc=$folder/log/jobcomp.txt
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
GresTypes=gpu
PartitionName=debug Nodes=ALL Default=YES MaxTime=60 State=UP OverSubscribe=NO
END
    for node in "${nodes[@]}"; do
      i=$((i + 1))
      echo "NodeName=$node NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[i]} CPUs=4 Boards=1 SocketsPerBoard=1" \
        "CoresPerSocket=4 ThreadsPerCore=1 RealMemory=4000 Gres=gpu:2 State=UNKNOWN"
    done
  } >"$folder/etc/slurm.conf"
  for node in "${nodes[@]}"; do
    echo "NodeName=$node Name=gpu File=$folder/dev/gpu[0-1]"
  done >"$folder/etc/gres.conf"
  printf 'CgroupPlugin=cgroup/v1\n' >"$folder/etc/cgroup.conf"
  { cat /etc/hosts; printf '127.0.0.1 %s\n' "${nodes[@]}"; } >"$folder/etc/hosts"
}

# daemon NAME COMMAND...: in the background, with its pid in pid/NAME and what it says in log/NAME.out.
daemon() {
  local name=$1
  shift
  setsid "$@" </dev/null >"$folder/log/$name.out" 2>&1 &
  echo $! >"$folder/pid/$name"
}

# As the nodes' hosts file has it, for it looks up the names of those that ask.
start_controller() {
  daemon slurmctld unshare -m bash -ec "mount --make-rprivate /
    mount --bind '$folder/etc/hosts' /etc/hosts
    exec slurmctld -D -c -f '$folder/etc/slurm.conf'"
}

# start_node NAME [VISIBLE...]: slurmd with a host name, /tmp and /dev/shm of its own.
start_node() {
  local node=$1 visible binds=
  shift
  mkdir -m 1777 "$folder/tmp.$node"
  for visible in "$folder" "$@"; do
    [[ $visible == /tmp/* ]] || continue
    mkdir -p "$folder/tmp.$node/${visible#/tmp/}"
    binds+="mount --bind '$visible' '$folder/tmp.$node/${visible#/tmp/}'; "
  done
  daemon "slurmd.$node" unshare -m -u bash -ec "hostname $node; mount --make-rprivate /
    mount --bind '$folder/etc/hosts' /etc/hosts
    $binds mount --rbind '$folder/tmp.$node' /tmp
    mount -t tmpfs -o size=1g shm /dev/shm
    exec slurmd -D -N $node -f '$folder/etc/slurm.conf'"
}

# wait_until SECONDS COMMAND...: tries it until it succeeds.
wait_until() {
  local end=$((${EPOCHREALTIME/[.,]/} + $1 * 1000000))
  shift
  until "$@"; do
    [ "${EPOCHREALTIME/[.,]/}" -lt "$end" ] || return 1
    sleep 0.1
  done
}

nodes_are_idle() {
  [ "$(sinfo -h -N -o %T 2>/dev/null | sort | uniq -c | xargs)" = "${#nodes[@]} idle" ]
}

start() {
  local node
  [ ${#folder} -lt 90 ] || fail "$folder: the path is too long for a socket in it"
  mkdir "$folder"/{etc,munge,pid,log,state,dev} || fail "$folder: a new, empty folder is wanted"
  mknod "$folder/dev/gpu0" c 1 3 || fail "no device files can be made here"
  mknod "$folder/dev/gpu1" c 1 3
  write_configuration
  (umask 077; head -c 1024 /dev/urandom >"$folder/munge/key")
  daemon munged munged --foreground --force --key-file="$folder/munge/key" --socket="$folder/munge/sock" \
    --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
  wait_until "$start_seconds" test -S "$folder/munge/sock" || fail "munged does not start: $(cat "$folder/log/munged.out")"
  start_controller
  for node in "${nodes[@]}"; do
    start_node "$node" "$@"
  done
  wait_until "$start_seconds" nodes_are_idle && return 0
  tail -n 5 "$folder"/log/*.out >&2
  stop
  fail "the nodes are not idle after $start_seconds s"
}

# Pids of everything that lives in a node's mount namespace: slurmd, its step daemons, their tasks.
pids_of_nodes() {
  local node namespace process
  for node in "${nodes[@]}"; do
    namespace=$(cat "$folder/pid/ns.$node" 2>/dev/null) || continue
    for process in /proc/[0-9]*; do
      [ "$(readlink "$process/ns/mnt" 2>/dev/null)" != "$namespace" ] || echo "${process#/proc/}"
    done
  done
}

# Remembers the nodes' namespaces, which outlive their slurmd in its step daemons.
note_namespaces() {
  local node pid own namespace
  own=$(readlink /proc/self/ns/mnt)
  for node in "${nodes[@]}"; do
    pid=$(cat "$folder/pid/slurmd.$node" 2>/dev/null) || continue
    namespace=$(readlink "/proc/$pid/ns/mnt" 2>/dev/null) || continue
    [ "$namespace" = "$own" ] || echo "$namespace" >"$folder/pid/ns.$node"
  done
}

no_jobs() { [ -z "$(timeout 5 squeue -h 2>/dev/null)" ]; }
nodes_are_gone() { [ -z "$(pids_of_nodes)" ]; }

# is_gone PID: also when it waits for its parent to notice.
is_gone() {
  case $(ps -o stat= -p "$1") in
    "" | Z*) return 0 ;;
  esac
  return 1
}

# end_daemon NAME: by the pid that start has noted.
end_daemon() {
  local pid
  pid=$(cat "$folder/pid/$1" 2>/dev/null) || return 0
  kill "$pid" 2>/dev/null || return 0
  wait_until 10 is_gone "$pid" || kill -9 "$pid"
}

stop() {
  local jobs node
  note_namespaces
  jobs=$(timeout 5 squeue -h -o %A 2>/dev/null) || jobs=
  # shellcheck disable=SC2086 # one word a job
  [ -z "$jobs" ] || timeout 5 scancel $jobs || true
  wait_until 15 no_jobs || true
  for node in "${nodes[@]}"; do
    end_daemon "slurmd.$node"
  done
  # shellcheck disable=SC2046 # one word a pid
  wait_until 10 nodes_are_gone || kill -9 $(pids_of_nodes) 2>/dev/null || true
  end_daemon slurmctld
  end_daemon munged
}

[ $# -ge 2 ] || fail "usage: slurm.sh start FOLDER [VISIBLE...] | stop FOLDER"
folder=$(realpath "$2")
export SLURM_CONF=$folder/etc/slurm.conf
case $1 in
  start) start "${@:3}" ;;
  stop) stop ;;
  *) fail "\"$1\" is neither start nor stop" ;;
esac
