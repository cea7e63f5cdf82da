// node fanout.mjs URL CALLS CONCURRENCY: calls a second of undici under cockatiel's retry, breaker, timeout and bulkhead.
import { Agent } from "undici";
import {
  bulkhead, circuitBreaker, ConsecutiveBreaker, ExponentialBackoff, handleAll, retry, timeout, TimeoutStrategy, wrap,
} from "cockatiel";

const [url, calls, concurrency] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const { origin, pathname: path } = new URL(url);
const agent = new Agent({ connections: 100 });
const policy = wrap(
  timeout(60_000, TimeoutStrategy.Cooperative),
  bulkhead(10_000),
  retry(handleAll, { maxAttempts: 5, backoff: new ExponentialBackoff() }),
  circuitBreaker(handleAll, { halfOpenAfter: 30_000, breaker: new ConsecutiveBreaker(5) }),
  timeout(20_000, TimeoutStrategy.Cooperative),
);
const headers = { authorization: "Bearer key", accept: "application/json", "user-agent": "bench" };

async function call() {
  return policy.execute(async ({ signal }) => {
    const answer = await agent.request({ origin, path, method: "GET", headers, signal });
    if (answer.statusCode >= 400) throw new Error(`status ${answer.statusCode}`);
    return answer.body.json();
  });
}

async function some(each) {
  for (let i = 0; i < each; i++) if ((await call()).id !== "b_1") throw new Error("not the answer");
}

const all = (n) => Promise.all(Array.from({ length: concurrency }, () => some(Math.ceil(n / concurrency))));
await all(calls / 5);
const began = process.hrtime.bigint();
await all(calls);
console.log(calls / (Number(process.hrtime.bigint() - began) / 1e9));
await agent.close();
