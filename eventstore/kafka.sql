-- What the relay has put on Kafka, and how far consumers of it are (docs/adr/0033). All of it can be made
-- again: the log is what happened, Kafka only carries it.

-- One row, made when the relay first runs. `epoch` names one run of the topics over one log: a restore empties
-- this table, and what was published of the former log is of another epoch. An organisation's events go through
-- one of `lanes` lanes, and lane i is partition i of every topic. All up to `position` is acknowledged by the
-- brokers; `event_id` is the event there.
CREATE TABLE IF NOT EXISTS relay (
    only_row   boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch      uuid        NOT NULL,
    lanes      integer     NOT NULL CHECK (lanes > 0),
    position   bigint      NOT NULL DEFAULT 0,
    event_id   uuid,
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- The last position that was put into each lane; 0: nothing. There is a row for every lane.
CREATE TABLE IF NOT EXISTS relay_lanes (
    lane     integer PRIMARY KEY,
    position bigint  NOT NULL DEFAULT 0
);

-- Where each consumer goes on reading: a hint, which may be behind. What was done is said by the positions
-- that stand beside the effects.
CREATE TABLE IF NOT EXISTS kafka_offsets (
    consumer    text        NOT NULL,
    topic       text        NOT NULL,
    partition   integer     NOT NULL,
    topic_id    uuid        NOT NULL, -- of a topic that is made anew under the name these say nothing
    next_offset bigint      NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, topic, partition)
);
