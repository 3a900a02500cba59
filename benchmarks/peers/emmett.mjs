// Appends to Emmett's own PostgreSQL store. `node emmett.mjs migrate` makes its schema;
// `node emmett.mjs CLIENTS SECONDS CONNECTIONS` appends and prints one JSON line: how many events
// before the clock ran, while it ran, and the seconds. DATABASE_URL and PAYLOAD by environment.

import { randomUUID } from 'node:crypto';
import { getPostgreSQLEventStore } from '@event-driven-io/emmett-postgresql';
import pg from 'pg';

const [clients, seconds, connections] = process.argv.slice(2);
const url = process.env.DATABASE_URL;

if (clients === 'migrate') {
  const store = getPostgreSQLEventStore(url);
  await store.schema.migrate();
  await store.close();
} else {
  const pool = new pg.Pool({ connectionString: url, max: Number(connections) });
  const store = getPostgreSQLEventStore(url, {
    connectionOptions: { pool },
    schema: { autoMigration: 'None' },
  });
  const data = JSON.parse(process.env.PAYLOAD);
  const append = () =>
    store.appendToStream(`note-${randomUUID()}`, [{ type: 'Noted', data }], {
      expectedStreamVersion: 0n,
    });
  const all = (client) => Promise.all(Array.from({ length: Number(clients) }, client));

  await all(append); // connections and plans are warm
  let events = 0;
  const begun = performance.now();
  await all(async () => {
    while (performance.now() - begun < Number(seconds) * 1000) {
      await append();
      events += 1;
    }
  });
  const took = (performance.now() - begun) / 1000;
  await pool.end();
  console.log(JSON.stringify({ warm: Number(clients), events, seconds: took }));
}
