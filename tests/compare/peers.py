"""No-op tasks through Celery with Redis, or through Ray: JSON with jobs_per_s, p50_us and p99_us."""

import json
import os
import socket
import subprocess
import sys
import time

SINGLES = 500
ROUNDS = 3


def measure(submit, wait, jobs):
    """Rates of some rounds of `jobs` tasks at once, and times of single ones."""
    wait([submit() for _ in range(jobs // 10)])
    rates = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        wait([submit() for _ in range(jobs)])
        rates.append(jobs / (time.perf_counter() - begun))
    times = []
    for _ in range(SINGLES):
        begun = time.perf_counter()
        wait([submit()])
        times.append((time.perf_counter() - begun) * 1e6)
    times.sort()
    return {
        "jobs_per_s": sorted(rates)[ROUNDS // 2],
        "p50_us": times[SINGLES // 2],
        "p99_us": times[SINGLES * 99 // 100],
    }


# As it comes, Celery forgets a task when its worker takes it, and Redis what it had not saved. With these it keeps
# both through a crash, but for the last second, which is nearer to what wasmjob promises.
SAFE = {"task_acks_late": True, "task_reject_on_worker_lost": True}
SAFE_REDIS = ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]


def celery(jobs, folder, safe=False):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    redis = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        + (SAFE_REDIS if safe else []),
        stdout=subprocess.DEVNULL,
    )
    url = f"redis://127.0.0.1:{port}/0"
    with open(os.path.join(folder, "noop_tasks.py"), "w") as tasks:
        tasks.write(
            "from celery import Celery\n"
            f"app = Celery('noop_tasks', broker='{url}', backend='{url}')\n"
            f"app.conf.update({SAFE if safe else {}})\n"
            "@app.task\n"
            "def noop():\n    return None\n"
        )
    sys.path.insert(0, folder)
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "noop_tasks", "worker", "--loglevel", "error", "--concurrency", str(os.cpu_count())],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "C_FORCE_ROOT": "1"},
    )
    try:
        import noop_tasks
        noop_tasks.noop.delay().get(timeout=60)
        return measure(noop_tasks.noop.delay, lambda results: [result.get(timeout=120) for result in results], jobs)
    finally:
        worker.terminate()
        worker.wait(30)
        redis.terminate()
        redis.wait(30)


def ray_(jobs, folder):
    import ray
    ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False, _temp_dir=folder)

    @ray.remote
    def noop():
        return None

    try:
        return measure(noop.remote, ray.get, jobs)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    which, jobs, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if which == "celery-safe":
        print(json.dumps(celery(jobs, folder, safe=True)))
    else:
        print(json.dumps({"celery": celery, "ray": ray_}[which](jobs, folder)))
